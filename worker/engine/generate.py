"""Generation of one batch, token by token: each row with its own prefix, sampling and end; knows no text of prompts.

A row gets what it would get alone: rows are padded on the left, positions are counted in tokens, and a row that has
ended leaves the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.continuation import continue_prompts
from worker.engine.detokenise import Detokeniser, StopFilter
from worker.engine.errors import ContextOverflowError
from worker.engine.families import MAX_START_TOKENS
from worker.engine.sampling import Sampler
from worker.engine.tokens import check_context

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationRow:
    """What one row of a batch asks for.

    Attributes:
        prompt_ids: At least one id.
        slot: Slot of the bank, or `NO_PREFIX`.
        max_new_tokens: At most so many tokens; see `cap_new_tokens`.
        temperature: 0 is greedy.
        top_p: Share of probability that is drawn from.
        seed: Seed of the row's draws; None takes a fresh one.
        stop: Texts that end the row; they are not shown.
        end_ids: Tokens that end the row; they are not shown.
        top_logprobs: How many of the most likely tokens are told with each token.
    """

    prompt_ids: tuple[int, ...]
    slot: int = NO_PREFIX
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if not self.prompt_ids or self.max_new_tokens < 1:
            raise ValueError(
                f"a row has {len(self.prompt_ids)} prompt ids and max_new_tokens {self.max_new_tokens}; expected at "
                "least one of each"
            )


@dataclass(frozen=True)
class TokenEvent:
    """One token of one row.

    Attributes:
        row: Index of the row in the batch as it was asked for.
        token_id: The token.
        text: What can be shown now; may be empty, and may hold the text of several tokens.
        finish_reason: Set on the last event of a row: `stop` (end token or stop text) or `length`.
        logprob: Natural logarithm of the token's probability under the model.
        top: The most likely tokens with theirs, as many as the row asked for.
    """

    row: int
    token_id: int
    text: str
    finish_reason: FinishReason | None
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def stream(
    base: LoadedBase,
    bank: PrefixBank | None,
    rows: Sequence[GenerationRow],
    cancelled: Callable[[], bool] | None = None,
    observe_first: Callable[[Tensor], None] | None = None,
) -> Iterator[list[TokenEvent]]:
    """Generates all rows in one batch.

    Args:
        base: The loaded base, attention installed.
        bank: The prefixes that rows name; None where no row has one.
        rows: One or more rows.
        cancelled: Asked before every forward; once it says yes, nothing more is computed.
        observe_first: Called once with the logits of the first step, `[len(rows), V]`.

    Yields:
        Per step one event for each row that has not ended.
    """
    under_way = [_Row(index, row, base) for index, row in enumerate(rows)]
    continuation = continue_prompts(base, bank, [row.prompt_ids for row in rows], [row.slot for row in rows])
    is_first = True
    while under_way and not (cancelled is not None and cancelled()):
        logits = continuation.next_logits()
        if is_first and observe_first is not None:
            observe_first(logits)
        is_first = False
        events = [row.accept(row_logits) for row, row_logits in zip(under_way, logits, strict=True)]
        kept = [place for place, event in enumerate(events) if event.finish_reason is None]
        under_way = [under_way[place] for place in kept]
        if kept:
            continuation.go_on([events[place].token_id for place in kept], kept)
        yield events


@torch.inference_mode()
def untouched_logits(base: LoadedBase, prompt_ids: Sequence[int], attention: str) -> Tensor:
    """Logits `[V]` of the next token by the base alone, with an attention of transformers' own.

    The proof that the left pane is the untouched model: no bank and no function of ours takes part.

    Args:
        base: The loaded base.
        prompt_ids: The prompt.
        attention: Name of the stock attention, `sdpa` or `eager`.
    """
    ours = base.model.config._attn_implementation
    base.model.set_attn_implementation(attention)
    try:
        input_ids = torch.tensor([list(prompt_ids)], device=base.device)
        more: dict[str, Any] = {"logits_to_keep": 1}
        if base.geometry.has_encoder:
            more = {"decoder_input_ids": torch.tensor([list(base.decoder_start_ids)], device=base.device)}
        logits: Tensor = base.model(input_ids=input_ids, use_cache=False, **more).logits[0, -1]
        return logits
    finally:
        base.model.set_attn_implementation(ours)


def end_ids(base: LoadedBase, *more: int | None) -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation settings, the tokenizer's own, and `more`."""
    named = base.model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in (*listed, base.tokenizer.eos_token_id, *more) if end is not None)


def cap_new_tokens(
    num_prompt_tokens: int,
    num_virtual_tokens: int,
    wish: int,
    context_length: int | None,
    *,
    has_encoder: bool = False,
) -> int:
    """How many tokens may be generated: the wish, or what the context has room for.

    Args:
        num_prompt_tokens: Tokens of the prompt.
        num_virtual_tokens: Length P of the prefix; 0 without one.
        wish: Tokens that are asked for.
        context_length: Positions of the model; None where it names no limit.
        has_encoder: Whether an encoder reads the prompt (`Geometry.has_encoder`), so that the answer has a context of
            its own and the prefix takes none of either.

    Raises:
        ContextOverflowError: There is no room for a single one.
    """
    if has_encoder:
        if context_length is None:
            return wish
        if num_prompt_tokens > context_length:
            raise ContextOverflowError(
                f"The prompt has {num_prompt_tokens:,} tokens, and this model's encoder reads {context_length:,}. "
                "Shorten the prompt."
            )
        return min(wish, context_length - MAX_START_TOKENS + 1)
    check_context(
        num_prompt_tokens,
        num_target_tokens=1,
        num_virtual_tokens=num_virtual_tokens,
        context_length=context_length,
    )
    return wish if context_length is None else min(wish, context_length - num_prompt_tokens - num_virtual_tokens)


class _Row:
    """One row on its way: its draws, its text, its count."""

    def __init__(self, index: int, row: GenerationRow, base: LoadedBase) -> None:
        self.index = index
        self.row = row
        self._sampler = Sampler(row.temperature, row.top_p, row.seed, num_top=row.top_logprobs)
        # What an encoder has read stands in front of no answer.
        self._text = Detokeniser(base.tokenizer, base.decoder_start_ids or row.prompt_ids)
        self._stop = StopFilter(row.stop)
        self._num_tokens = 0

    def accept(self, logits: Tensor) -> TokenEvent:
        """Chooses the row's next token from `[V]` and says what may be shown."""
        choice = self._sampler.choose(logits)
        self._num_tokens += 1
        is_end = choice.token_id in self.row.end_ids
        is_last = is_end or self._num_tokens == self.row.max_new_tokens
        text = "" if is_end else self._text.push(choice.token_id)
        shown, is_stopped = self._stop.push(text + (self._text.flush() if is_last else ""))
        if is_last and not is_stopped:
            shown += self._stop.flush()
        reason: FinishReason | None = "stop" if is_stopped or is_end else "length" if is_last else None
        return TokenEvent(self.index, choice.token_id, shown, reason, choice.logprob, choice.top)
