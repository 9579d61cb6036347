"""What a prefix changed in an answer: every token scored with the prefix and without it, side by side.

Both sides are two rows of one batch that is computed in pieces, so that whoever shares the model with them waits for
one piece at most. Knows no sampling: the answer is given.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.detokenise import Detokeniser

NUM_TOP = 10
FIRST_PIECE_TOKENS = 16
LARGEST_PIECE_TOKENS = 256
PIECE_S = 0.1
"""Seconds that one piece of the work shall take; the number of tokens follows from the pieces before."""

LOGITS_AT_ONCE = 8_000_000
"""Numbers of a table of log-probabilities at most, so that a large vocabulary takes no large memory."""

Top = tuple[tuple[int, float], ...]
"""Ids of the most likely tokens with their log-probabilities, the most likely first."""


@dataclass(frozen=True)
class ScoredToken:
    """One token of an answer as both sides see it.

    Attributes:
        token_id: The token.
        logprob: Natural logarithm of its probability with the prefix.
        base_logprob: The same of the base alone.
        kl: KL divergence of the prefixed distribution from the base's, at this token, in nats.
        top: The most likely tokens with the prefix.
        base_top: Those of the base alone.
    """

    token_id: int
    logprob: float
    base_logprob: float
    kl: float
    top: Top
    base_top: Top


@dataclass(frozen=True)
class Question:
    """An answer to be scored.

    Attributes:
        prompt_ids: What was asked; at least one id.
        answer_ids: What was answered; at least one id.
        slot: Prefix of the answer in the bank.
        strength: How much of it is attended to, from 0, which is the base's own row, to 1.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    slot: int
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.answer_ids:
            raise ValueError(
                f"there are {len(self.prompt_ids)} prompt ids and {len(self.answer_ids)} answer ids; expected at "
                "least one of each"
            )

    @property
    def slots(self) -> tuple[int, int]:
        """Of both sides."""
        return (self.slot if self.strength > 0 else NO_PREFIX), NO_PREFIX

    @property
    def strengths(self) -> tuple[float, float]:
        """Of both sides; that of a row without a prefix says nothing."""
        return self.strength or 1.0, 1.0


def score(
    base: LoadedBase, bank: PrefixBank, question: Question, clock: Callable[[], float] = time.perf_counter
) -> Iterator[list[ScoredToken]]:
    """Scores an answer with its prefix and without, given all tokens before each (teacher forcing).

    Args:
        base: The loaded base, attention installed.
        bank: Holds the question's slot.
        question: Prompt and answer.
        clock: Measures pieces, to choose the size of the next.

    Yields:
        Per piece of work the tokens that are scored now, in order; none while the prompt is read.
    """
    sides = (_EncodedSides if base.geometry.has_encoder else _DecodedSides)(base, bank, question)
    size, done = FIRST_PIECE_TOKENS, 0
    while done < len(sides.input_ids):
        began = clock()
        piece = sides.input_ids[done : done + size]
        done += len(piece)
        # The logits behind an input token score the token after it; those of the prompt score nothing.
        num_scored = min(len(piece), max(0, done - sides.num_unscored))
        logits = sides.forward(piece, max(1, num_scored))
        targets = question.answer_ids[done - sides.num_unscored - num_scored : done - sides.num_unscored]
        yield _compared(logits, targets) if num_scored else []
        size = _next_size(size, clock() - began)


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """Text of one token as it stands within a text, special tokens shown."""
    # Decoders may drop the space of a first token, so the second of two is looked at.
    once, twice = (
        tokenizer.decode([token_id] * times, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for times in (1, 2)
    )
    return str(twice[len(once) :])


def answer_texts(base: LoadedBase, question: Question) -> list[str]:
    """The text that each token of an answer adds; together they are the whole answer."""
    text = Detokeniser(base.tokenizer, base.decoder_start_ids or question.prompt_ids)
    pieces = [text.push(token_id) for token_id in question.answer_ids]
    pieces[-1] += text.flush()
    return pieces


@dataclass
class Explanation:
    """All tokens of an answer, and how far the prefix moved it.

    Args:
        base: The loaded base.
        question: What is explained.
    """

    base: LoadedBase
    question: Question
    tokens: list[ScoredToken] = field(default_factory=list)

    @property
    def mean_kl(self) -> float:
        """Mean KL divergence over the answer, in nats."""
        return sum(token.kl for token in self.tokens) / len(self.tokens)

    def told(self) -> list[dict[str, object]]:
        """The tokens with their texts, as they go out."""
        text_of = lru_cache(maxsize=None)(lambda token_id: token_text(self.base.tokenizer, token_id))

        def told_top(top: Top) -> list[list[object]]:
            return [[text_of(token_id), round(logprob, 4)] for token_id, logprob in top]

        return [
            {
                "text": text,
                "logprob": round(token.logprob, 4),
                "base_logprob": round(token.base_logprob, 4),
                "kl": round(token.kl, 5),
                "top": told_top(token.top),
                "base_top": told_top(token.base_top),
            }
            for text, token in zip(answer_texts(self.base, self.question), self.tokens, strict=True)
        ]


class _DecodedSides:
    """Prompt and answer as one text, in front of which one row has the prefix."""

    def __init__(self, base: LoadedBase, bank: PrefixBank, question: Question) -> None:
        self.input_ids = (*question.prompt_ids, *question.answer_ids[:-1])
        self.num_unscored = len(question.prompt_ids) - 1
        self._base, self._bank, self._question = base, bank, question
        self._starts = torch.tensor(bank.row_lengths(question.slots), device=base.device)[:, None]
        self._cache = DynamicCache()
        self._done = 0

    @torch.inference_mode()
    def forward(self, piece: Sequence[int], num_logits: int) -> Tensor:
        """Logits `[2, num_logits, V]` behind the last tokens of a piece."""
        device = self._base.device
        places = torch.arange(self._done, self._done + len(piece), device=device)
        self._done += len(piece)
        with attending(self._base.model, self._bank, self._question.slots, self._question.strengths):
            output = self._base.model(
                input_ids=torch.tensor([list(piece)] * 2, device=device),
                attention_mask=torch.ones(2, self._done, dtype=torch.long, device=device),
                position_ids=places[None] + self._starts,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=num_logits,
            )
        logits: Tensor = output.logits
        return logits


class _EncodedSides:
    """A prompt that the encoder reads once, and an answer that the decoder is given piece by piece."""

    def __init__(self, base: LoadedBase, bank: PrefixBank, question: Question) -> None:
        self.input_ids = (*base.decoder_start_ids, *question.answer_ids[:-1])
        self.num_unscored = len(base.decoder_start_ids) - 1
        self._base, self._bank, self._question = base, bank, question
        self._prompt_ids = torch.tensor([list(question.prompt_ids)] * 2, device=base.device)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._states: Tensor | None = None

    @torch.inference_mode()
    def forward(self, piece: Sequence[int], num_logits: int) -> Tensor:
        """Logits `[2, num_logits, V]` behind the last tokens of a piece."""
        model = self._base.model
        mask = torch.ones_like(self._prompt_ids)
        with attending(model, self._bank, self._question.slots, self._question.strengths):
            if self._states is None:
                encoder = model.get_encoder()
                self._states = encoder(input_ids=self._prompt_ids, attention_mask=mask).last_hidden_state
            output = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
                attention_mask=mask,
                decoder_input_ids=torch.tensor([list(piece)] * 2, device=self._base.device),
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: Tensor = output.logits[:, -num_logits:]
        return logits


def _compared(logits: Tensor, targets: Sequence[int]) -> list[ScoredToken]:
    """Scores of tokens from `[2, N, V]`, a few places at a time."""
    at_once = max(1, LOGITS_AT_ONCE // (2 * logits.shape[-1]))
    scored: list[ScoredToken] = []
    for start in range(0, len(targets), at_once):
        part = targets[start : start + at_once]
        logprobs = logits[:, start : start + at_once].double().log_softmax(dim=-1)
        scored += _scored(logprobs, part)
    return scored


def _scored(logprobs: Tensor, targets: Sequence[int]) -> list[ScoredToken]:
    with_prefix, without = logprobs
    # A token that the family rules out on both sides moves nothing, though -inf less -inf is no number.
    kl = (with_prefix.exp() * (with_prefix - without)).nan_to_num(nan=0.0).sum(dim=-1).clamp(min=0.0).tolist()
    chosen = logprobs[:, torch.arange(len(targets)), torch.tensor(targets)].tolist()
    values, ids = logprobs.topk(min(NUM_TOP, logprobs.shape[-1]), dim=-1)
    tops = [
        [tuple(zip(row_ids, row, strict=True)) for row_ids, row in zip(*side, strict=True)]
        for side in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return [
        ScoredToken(token_id, chosen[0][place], chosen[1][place], kl[place], tops[0][place], tops[1][place])
        for place, token_id in enumerate(targets)
    ]


def _next_size(size: int, elapsed_s: float) -> int:
    fitting = int(size * PIECE_S / max(elapsed_s, 1e-6))
    return max(1, min(fitting, 2 * size, LARGEST_PIECE_TOKENS))
