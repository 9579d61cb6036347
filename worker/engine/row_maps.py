"""What the prefixes of the rows that are being answered add outside the softmax; no room is taken until one has any."""

import torch
from torch import Tensor

from worker.engine.outside import maps_of


class RowMaps:
    """A map of queries for each row, layer and key/value head; zeros for rows whose prefix has nothing outside.

    Args:
        num_layers: L.
        dtype: Number format of the base.
    """

    def __init__(self, num_layers: int, dtype: torch.dtype) -> None:
        self._num_layers, self._dtype = num_layers, dtype
        self._layers: list[Tensor] = []

    def row_bytes(self, num_kv_heads: int, head_dim: int) -> int:
        """Bytes of one row, where any row has something outside."""
        return self._num_layers * num_kv_heads * head_dim * head_dim * self._dtype.itemsize

    def fill(self, row: int, outside: Tensor | None, strength: float) -> None:
        """Takes what a row's prefix has.

        Args:
            row: Its place.
            outside: `[L, 2, H_kv, R, D]`, or None.
            strength: Share of it that counts.
        """
        if outside is not None:
            maps = (maps_of(outside.float()) * strength).to(self._dtype)
            self._reserve(row + 1, maps)
            for layer, numbers in zip(self._layers, maps, strict=True):
                layer[row] = numbers
        elif self._layers:
            self._reserve(row + 1, self._layers[0][:0])
            for layer in self._layers:
                layer[row] = 0

    def move(self, source: int, target: int) -> None:
        """Copies what one row has to another."""
        for layer in self._layers:
            layer[target] = layer[source]

    def release(self) -> None:
        """Gives all room back."""
        self._layers = []

    def read(self, layer: int, start: int, stop: int) -> Tensor | None:
        """`[rows, H_kv, D, D]` of the rows from start to stop; None where no row ever had any."""
        return self._layers[layer][start:stop] if self._layers else None

    def _reserve(self, num_rows: int, like: Tensor) -> None:
        """Makes room for so many rows, in shapes and on the device of `like`, `[any, H_kv, D, D]`."""
        there = len(self._layers[0]) if self._layers else 0
        if num_rows <= there:
            return
        rows = max(num_rows, 2 * there)
        for index in range(self._num_layers):
            larger = torch.zeros(rows, *like.shape[1:], dtype=self._dtype, device=like.device)
            if there:
                larger[:there] = self._layers[index]
                self._layers[index] = larger
            else:
                self._layers.append(larger)
