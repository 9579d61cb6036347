"""One batch on a loaded base: a row for each column, its events as they come, and the proof of the left pane."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.attention import PREFIX_EAGER
from worker.engine.bank import NO_PREFIX
from worker.engine.base import LoadedBase
from worker.engine.generate import (
    FinishReason,
    GenerationRow,
    TokenEvent,
    cap_new_tokens,
    end_ids,
    stream,
    untouched_logits,
)
from worker.engine.sampling import first_token_kl
from worker.engine.tokens import Context, end_token_id
from worker.inference.logprobs import TokenLogprobs, spell
from worker.inference.prompts import Prompt
from worker.inference.registry import PrefixEntry, Target
from worker.inference.requests import Sampling
from worker.inference.resident import Resident
from worker.inference.runner import Work

TOLERANCE = 1e-4
"""Largest difference of a logit in fp32 between the base's row and the untouched model."""

COARSE_TOLERANCE = 0.05
"""The same for number formats of 16 bits, as a share of the largest logit: a batch is rounded otherwise than a row."""


@dataclass(frozen=True)
class Column:
    """One answer that is asked for.

    Attributes:
        target: The model.
        prompt: What it is asked.
        context: What stands in front of the prompt.
        example_source: The prefix whose training rows the few-shot context draws from.
        strength: How much of the prefix is attended to, from 0 to 1, which is all of it.
        draw: Which of several answers to one prompt, so that each draws otherwise from one seed.
    """

    target: Target
    prompt: Prompt
    context: Context = "none"
    example_source: PrefixEntry | None = None
    strength: float = 1.0
    draw: int = 0


@dataclass(frozen=True)
class Started:
    """What a column is about to compute."""

    column: int
    prompt: str
    prompt_tokens: int
    prefix_tokens: int
    max_tokens: int
    prompt_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A token of a column, with the text that can be shown now.

    Attributes:
        column: Whose.
        text: May be empty, and may hold the text of several tokens.
        token_id: The token.
        logprobs: What the model thought of it and of its rivals, where that was asked for; none of an end token.
    """

    column: int
    text: str
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a column.

    Attributes:
        column: Whose.
        finish_reason: `stop` or `length`.
        tokens: Tokens of the answer, an end token included.
        tokens_per_second: Of this column, from the moment its batch began.
        first_token_s: Seconds from that moment to its first token.
    """

    column: int
    finish_reason: FinishReason
    tokens: int
    tokens_per_second: float
    first_token_s: float


@dataclass(frozen=True)
class Proof:
    """That the base's column is the untouched model, and how far the prefix moves the first token.

    Attributes:
        base_verified: Whether the first logits agree with those of stock attention without any bank.
        max_difference: The largest difference among them.
        prefix_kl: KL divergence in nats between the first token's distributions with and without the first prefix that
            was asked the same; None where none was.
    """

    base_verified: bool
    max_difference: float
    prefix_kl: float | None


BatchEvent = list[Started] | Piece | Ended | Proof


def batch_of(columns: Sequence[Column], sampling: Sampling, *, has_proof: bool = False) -> Work:
    """A batch for the runner of the columns' base: `list[Started]` first, then pieces and ends as they come.

    Args:
        columns: All of one base.
        sampling: For all of them.
        has_proof: Whether a `Proof` comes after the first pieces, where a column is the base alone.
    """

    def work(resident: Resident, cancelled: Callable[[], bool]) -> Iterator[BatchEvent]:
        bank, slots = resident.bank_for([column.target.prefix for column in columns])
        rows = [_row(resident, column, slot, sampling) for column, slot in zip(columns, slots, strict=True)]
        yield [_started(resident, columns, rows, index) for index in range(len(rows))]
        first: list[Tensor] = []
        began = time.perf_counter()
        counts, first_s = [0] * len(rows), [0.0] * len(rows)
        for step in stream(resident.base, bank, rows, cancelled, observe_first=first.append):
            for event in step:
                counts[event.row] += 1
                elapsed_s = time.perf_counter() - began
                first_s[event.row] = first_s[event.row] or elapsed_s
                is_spelled = sampling.top_logprobs is not None and event.token_id not in rows[event.row].end_ids
                logprobs = spell(resident.base.tokenizer, event) if is_spelled else None
                yield Piece(event.row, event.text, event.token_id, logprobs)
                if event.finish_reason is not None:
                    yield _ended(event, counts[event.row], elapsed_s, first_s[event.row])
            if has_proof and first and NO_PREFIX in slots:
                yield _prove(resident.base, rows, first.pop())

    return work


def _row(resident: Resident, column: Column, slot: int, sampling: Sampling) -> GenerationRow:
    source = column.example_source
    shots = resident.shots(source) if column.context == "few-shot" and source is not None else ()
    base = resident.base
    prompt_ids = column.prompt.encode(base.tokenizer, column.context, shots)
    num_virtual_tokens = column.target.num_virtual_tokens
    return GenerationRow(
        prompt_ids=tuple(prompt_ids),
        slot=slot,
        max_new_tokens=cap_new_tokens(
            len(prompt_ids),
            num_virtual_tokens,
            sampling.max_tokens,
            base.geometry.context_length,
            has_encoder=base.geometry.has_encoder,
        ),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else (sampling.seed + column.draw) % 2**63,
        stop=sampling.stop,
        top_logprobs=sampling.top_logprobs or 0,
        end_ids=end_ids(base, end_token_id(base.tokenizer, column.prompt.kind_for(base.tokenizer))),
    )


def _started(resident: Resident, columns: Sequence[Column], rows: Sequence[GenerationRow], index: int) -> Started:
    row = rows[index]
    prompt = resident.base.tokenizer.decode(list(row.prompt_ids), clean_up_tokenization_spaces=False)
    prefix_tokens = columns[index].target.num_virtual_tokens
    return Started(index, prompt, len(row.prompt_ids), prefix_tokens, row.max_new_tokens, row.prompt_ids)


def _ended(event: TokenEvent, num_tokens: int, elapsed_s: float, first_s: float) -> Ended:
    assert event.finish_reason is not None
    speed = round(num_tokens / max(elapsed_s, 1e-9), 2)
    return Ended(event.row, event.finish_reason, num_tokens, speed, round(first_s, 4))


def _prove(base: LoadedBase, rows: Sequence[GenerationRow], first_logits: Tensor) -> Proof:
    """Compares the base's row with a forward that nothing of ours takes part in."""
    at = next(index for index, row in enumerate(rows) if row.slot == NO_PREFIX)
    attention = "eager" if base.model.config._attn_implementation == PREFIX_EAGER else "sdpa"
    stock = untouched_logits(base, rows[at].prompt_ids, attention).float()
    difference = float((first_logits[at].float() - stock).abs().max())
    allowed = TOLERANCE if base.dtype == torch.float32 else COARSE_TOLERANCE * max(1.0, float(stock.abs().max()))
    asked_alike = [
        index for index, row in enumerate(rows) if row.slot != NO_PREFIX and row.prompt_ids == rows[at].prompt_ids
    ]
    kl = first_token_kl(first_logits[asked_alike[0]], first_logits[at]) if asked_alike else None
    return Proof(base_verified=difference <= allowed, max_difference=difference, prefix_kl=kl)
