"""Keys and values of the rows that are being answered: each row's prefix from column 0 on, then its tokens.

The room is taken ahead and grows in steps, so that a decode step writes one column and copies none. A row's prefix is
written once, when the row joins, and costs a step no more than as many tokens of a prompt would.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COLUMN_STEP = 64
"""Columns are added in multiples of this, at least a quarter of those there are."""


class RowCache:
    """Room for rows and columns in every attention of one kind.

    Shapes: R rows, C columns, H_kv key/value heads, D head width.

    Args:
        num_attentions: How many attentions have keys and values of their own.
        num_kv_heads: H_kv.
        head_dim: D.
        dtype: Number format of the base.
        device: Where it computes.
    """

    def __init__(
        self, num_attentions: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape = (num_attentions, num_kv_heads, head_dim)
        self._dtype, self._device = dtype, device
        self.num_rows = self.num_columns = 0
        self._layers: list[Tensor] = []

    @property
    def column_bytes(self) -> int:
        """Bytes of one column of one row, all attentions together."""
        num_attentions, num_kv_heads, head_dim = self._shape
        return num_attentions * 2 * num_kv_heads * head_dim * self._dtype.itemsize

    def reserve(self, num_rows: int, num_columns: int) -> None:
        """Makes room for so many rows of so many columns; what is there stays."""
        if num_rows <= self.num_rows and num_columns <= self.num_columns:
            return
        rows = self.num_rows if num_rows <= self.num_rows else max(num_rows, 2 * self.num_rows)
        columns = self.num_columns
        if num_columns > columns:
            columns = -(-max(num_columns, columns * 5 // 4) // COLUMN_STEP) * COLUMN_STEP
        num_attentions, num_kv_heads, head_dim = self._shape
        # One attention after another, so that two whole caches never stand side by side. Zeros, as a column that nobody
        # may see is still multiplied by nothing, and nothing times a random number can be none.
        for layer in range(num_attentions):
            larger = torch.zeros(2, rows, num_kv_heads, columns, head_dim, dtype=self._dtype, device=self._device)
            if layer < len(self._layers):
                larger[:, : self.num_rows, :, : self.num_columns] = self._layers[layer]
                self._layers[layer] = larger
            else:
                self._layers.append(larger)
        self.num_rows, self.num_columns = rows, columns

    def release(self) -> None:
        """Gives all room back."""
        self._layers = []
        self.num_rows = self.num_columns = 0

    def fill(self, row: int, prefix: Tensor) -> None:
        """Writes a prefix into the first columns of a row.

        Args:
            row: Which.
            prefix: `[attentions, 2, H_kv, P, D]`.
        """
        for layer, numbers in zip(self._layers, prefix, strict=True):
            layer[:, row, :, : prefix.shape[3]] = numbers

    def move(self, source: int, target: int, num_columns: int) -> None:
        """Copies the first columns of one row to another."""
        if source != target:
            for layer in self._layers:
                layer[:, target, :, :num_columns] = layer[:, source, :, :num_columns]

    def places(self, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
        """Where tokens go, for `write`; valid until room is added.

        Args:
            rows: Of each of N tokens.
            columns: Likewise.
        """
        num_kv_heads = self._shape[1]
        starts = [row * num_kv_heads * self.num_columns for row in rows]
        first = torch.tensor([start + column for start, column in zip(starts, columns, strict=True)])
        heads = torch.arange(num_kv_heads)[:, None] * self.num_columns
        return (heads + first).flatten().to(self._device)

    def write(self, layer: int, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Writes the keys and values of N tokens, each `[1, H_kv, N, D]`, to their places."""
        kept = self._layers[layer].flatten(1, 3)
        kept[0].index_copy_(0, places, key[0].flatten(0, 1))
        kept[1].index_copy_(0, places, value[0].flatten(0, 1))

    def read(self, layer: int, start: int, stop: int, num_columns: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[rows, H_kv, num_columns, D]` of the rows from start to stop, not copied."""
        kept = self._layers[layer][:, start:stop, :, :num_columns]
        return kept[0], kept[1]
