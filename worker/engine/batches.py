"""Rows in an order that depends on seed and step alone, and their padding to one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine.example import Example

GROUP_SIZE = 32
"""Batches whose rows are sorted by length together: rows of a batch are of like length, yet the order stays random."""


MAX_MICRO_ROWS = 256
"""Rows that are computed at once at most."""


class SlotRow(NamedTuple):
    """A row and the prefix that learns from it."""

    slot: int
    example: Example


def micro_batches(rows: Sequence[SlotRow], max_rows: int, max_tokens: int, multiple: int = 1) -> list[list[SlotRow]]:
    """Parts of a pass that are computed at once: rows of like length, whichever prefix they belong to.

    Args:
        rows: Of all prefixes.
        max_rows: Rows of a part at most.
        max_tokens: Tokens of a part with padding at most, unless one row is longer.
        multiple: So many parts are computed side by side: their number is raised to a multiple of this where there are
            rows enough, and they get about equally many tokens.

    Returns:
        Every row once; the rows of a part are ordered by prefix.
    """
    by_length = sorted(rows, key=lambda row: len(row.example))
    parts = _cut(by_length, max_rows, max_tokens)
    if multiple > 1:
        wanted = -(-len(parts) // multiple) * multiple
        low, high = 1, max_tokens
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(_cut(by_length, max_rows, middle)) <= wanted else (middle + 1, high)
        parts = _cut(by_length, max_rows, low)
    return [sorted(part, key=lambda row: row.slot) for part in parts]


def padded_tokens(part: Sequence[SlotRow]) -> int:
    """Tokens of a part with padding."""
    return len(part) * max(len(row.example) for row in part)


def _cut(by_length: Sequence[SlotRow], max_rows: int, max_tokens: int) -> list[list[SlotRow]]:
    parts: list[list[SlotRow]] = [[]]
    for row in by_length:
        is_full = len(parts[-1]) >= max_rows or (len(parts[-1]) + 1) * len(row.example) > max_tokens
        if parts[-1] and is_full:
            parts.append([])
        parts[-1].append(row)
    return parts


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right, and where their targets are predicted.

    Attributes:
        input_ids: `[B, T]`; padding is any id, since nothing before it can see it.
        rows: `[N]` row of each target token.
        columns: `[N]` column whose hidden state predicts it: the one before it.
        labels: `[N]` the target tokens.
        num_tokens: Real tokens, padding left out.
        attention_mask: `[B, T]`, 1 for a token; only where an encoder, which sees all of it, reads `input_ids`.
        decoder_input_ids: `[B, U]`, the answers as a decoder of their own reads them; then `columns` count in these.
    """

    input_ids: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    num_tokens: int
    attention_mask: Tensor | None = None
    decoder_input_ids: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        tensors = (self.input_ids, self.rows, self.columns, self.labels)
        input_ids, rows, columns, labels = (tensor.to(device) for tensor in tensors)
        more = (
            None if tensor is None else tensor.to(device) for tensor in (self.attention_mask, self.decoder_input_ids)
        )
        return Batch(input_ids, rows, columns, labels, self.num_tokens, *more)


def collate(examples: Sequence[Example], start_ids: Sequence[int] = ()) -> Batch:
    """Pads rows on the right and lists their target positions.

    Args:
        examples: At least one row.
        start_ids: Of an encoder-decoder (`LoadedBase.decoder_start_ids`): the encoder gets the prompts, and the decoder
            these in front of the targets.
    """
    if start_ids:
        return _collate_apart(examples, tuple(start_ids))
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


def _collate_apart(examples: Sequence[Example], start_ids: tuple[int, ...]) -> Batch:
    targets = [example.target_ids for example in examples]
    lengths = [len(example.prompt_ids) for example in examples]
    first = len(start_ids) - 1
    return Batch(
        input_ids=_padded([example.prompt_ids for example in examples]),
        rows=torch.tensor([row for row, target in enumerate(targets) for _ in target]),
        columns=torch.tensor([first + column for target in targets for column in range(len(target))]),
        labels=torch.tensor([token for target in targets for token in target]),
        num_tokens=sum(len(example) for example in examples),
        attention_mask=_padded([(1,) * length for length in lengths]),
        decoder_input_ids=_padded([start_ids + target[:-1] for target in targets]),
    )


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + (0,) * (longest - len(row)) for row in rows])


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
