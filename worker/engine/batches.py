"""Rows in an order that depends on seed and step alone, and their padding to one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.example import Example

GROUP_SIZE = 32
"""Batches whose rows are sorted by length together: rows of a batch are of like length, yet the order stays random."""


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, and where their targets are predicted.

    Attributes:
        input_ids: `[B, T]`; padding is any id, since nothing before it can see it.
        rows: `[N]` row of each target token.
        columns: `[N]` column whose hidden state predicts it: the one before it.
        labels: `[N]` the target tokens.
        num_tokens: Real tokens, padding left out.
    """

    input_ids: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    num_tokens: int

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = (self.input_ids, self.rows, self.columns, self.labels)
        input_ids, rows, columns, labels = (tensor.to(device) for tensor in tensors)
        return Batch(input_ids, rows, columns, labels, self.num_tokens)


def collate(examples: Sequence[Example]) -> Batch:
    """Pads rows on the right and lists their target positions."""
    longest = max(len(example) for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.prompt_ids + example.target_ids)
        start = len(example.prompt_ids) - 1
        rows += [row] * len(example.target_ids)
        columns += range(start, start + len(example.target_ids))
        labels += example.target_ids
    num_tokens = sum(len(example) for example in examples)
    return Batch(input_ids, torch.tensor(rows), torch.tensor(columns), torch.tensor(labels), num_tokens)


class BatchOrder:
    """Which rows each step takes; known for any step without the ones before, so that a resumed run goes on exactly.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per step; the last batch of an epoch may have fewer.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_epoch = -(-len(lengths) // batch_size)
        self._epoch = -1
        self._batches: list[list[int]] = []

    def rows_of(self, step: int) -> list[int]:
        """Indices of the rows of a step, counted from 0."""
        epoch, index = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[index]

    def _draw(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        group = self.batch_size * GROUP_SIZE
        by_length: list[int] = []
        for start in range(0, len(order), group):
            by_length += sorted(order[start : start + group], key=lambda row: self.lengths[row])
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
