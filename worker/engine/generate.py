"""Generation of one batch from its beginning to its end; knows no text of prompts.

A row gets what it would get alone, and leaves the batch when it has ended.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.errors import ContextOverflowError
from worker.engine.families import MAX_START_TOKENS
from worker.engine.generation_row import FinishReason, GenerationRow, TokenEvent
from worker.engine.running_batch import RunningBatch
from worker.engine.tokens import check_context

__all__ = ["FinishReason", "GenerationRow", "TokenEvent", "cap_new_tokens", "end_ids", "stream", "untouched_logits"]


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
    batch = RunningBatch(base)
    prefixes = [None if bank is None else bank.prefix(row.slot) for row in rows]
    writing = [batch.join(row, prefix) for row, prefix in zip(rows, prefixes, strict=True)]
    indices = {each: index for index, each in enumerate(writing)}
    is_first = True
    while indices and not (cancelled is not None and cancelled()):
        events = batch.step()
        if is_first and observe_first is not None:
            observe_first(torch.stack([each.first_logits for each in writing if each.first_logits is not None]))
        is_first = False
        told = sorted(((indices[each], event) for each, event in events), key=lambda pair: pair[0])
        for each, event in events:
            if event.finish_reason is not None:
                batch.leave(each)
                del indices[each]
        yield [replace(event, row=index) for index, event in told]


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
