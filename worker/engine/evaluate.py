"""Loss per target token on held-out rows: the base, the base with written words in front, and the prefix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.batches import collate
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import ContextOverflowError, OutOfMemoryError
from worker.engine.example import Example
from worker.engine.loss import target_loss

MAX_BATCH_TOKENS = 4096
"""Tokens of a batch, padding included; halved where the device has too little memory."""


@dataclass(frozen=True)
class Score:
    """The loss on a set of rows.

    Attributes:
        loss: Nats per target token.
        num_rows: Rows that were looked at.
        left_out: Rows that are longer than the context.
    """

    loss: float
    num_rows: int
    left_out: int


def evaluate(base: LoadedBase, bank: PrefixBank | None, examples: Sequence[Example]) -> Score:
    """Measures the base (`bank` None) or the prefix in slot 0 of `bank`.

    For the base with a written instruction or few-shot examples, encode the rows with that context in their prompts.

    Args:
        base: The frozen base.
        bank: Of which slot 0 stands in front of every row.
        examples: Held-out rows.

    Raises:
        ContextOverflowError: No row fits into the context.
        OutOfMemoryError: Not even one row fits into memory.
    """
    length = bank.lengths[0] if bank is not None else 0
    fits = base.geometry.fits
    fitting = [row for row in examples if fits(len(row.prompt_ids), len(row.target_ids), length)]
    if not fitting:
        raise ContextOverflowError(
            f"None of the {len(examples)} validation rows fits into the model's context of "
            f"{base.geometry.context_length} tokens with {length} virtual tokens in front. Shorten the prompts."
        )
    max_tokens = MAX_BATCH_TOKENS
    while True:
        try:
            loss = _mean_loss(base, bank, fitting, max_tokens)
            return Score(loss, len(fitting), len(examples) - len(fitting))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        free_memory(base.device)
        max_tokens = _halve(max_tokens)


@torch.no_grad()
def _mean_loss(base: LoadedBase, bank: PrefixBank | None, examples: Sequence[Example], max_tokens: int) -> float:
    total = torch.zeros((), dtype=torch.float64)
    for rows in token_batches(examples, max_tokens):
        total += target_loss(base.model, bank, collate(rows, base.decoder_start_ids).to(base.device)).cpu().double()
    return float(total) / sum(len(example.target_ids) for example in examples)


def token_batches(examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
    """Rows sorted by length in batches of at most `max_tokens` with padding, at least one row each."""
    batch: list[Example] = []
    for example in sorted(examples, key=len):
        if batch and (len(batch) + 1) * len(example) > max_tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _halve(max_tokens: int) -> int:
    if max_tokens == 1:
        raise OutOfMemoryError(
            "The device has too little memory to evaluate even one row. Choose a smaller base model or shorter rows."
        )
    return max_tokens // 2
