"""Who may attend to which virtual token: the columns that a prefix adds to an attention mask."""

from collections.abc import Sequence

import torch
from torch import Tensor


class PrefixMask:
    """The visibility of the prefixes of one batch during one forward.

    A query at position q sees virtual token p of its row where `p < length`, and, in a layer with a sliding window w,
    where `q - p < w`: a prefix leaves the window like any other key (as with PEFT). Positions are counted in
    tokens, so padding on the left changes nothing.

    Args:
        lengths: Virtual tokens of each of the B rows.
        position_ids: `[B or 1, T]` of this forward's tokens, prefix counted.
        strengths: How much of its prefix each row attends to, above 0 and up to 1; None is all of it.
    """

    def __init__(self, lengths: Sequence[int], position_ids: Tensor, strengths: Sequence[float] | None = None) -> None:
        self.lengths = lengths
        self.strengths = strengths
        self.num_columns = max(lengths)
        self.is_uniform = min(lengths) == self.num_columns
        self.position_ids = position_ids
        self._last_position: int | None = None
        self._extended: dict[tuple[int, tuple[int, int], int | None, bool], tuple[Tensor | None, Tensor]] = {}

    def is_all_visible(self, sliding_window: int | None) -> bool:
        """Whether every query of the batch sees every column, so that no mask is needed for them."""
        if not self.is_uniform or self.strengths is not None:
            return False
        if sliding_window is None:
            return True
        if self._last_position is None:
            self._last_position = int(self.position_ids.max())
        return self._last_position < sliding_window

    def visible(self, sliding_window: int | None) -> Tensor:
        """`[B or 1, 1, T or 1, P]`, True where a query sees a virtual token."""
        device = self.position_ids.device
        lengths = self.lengths[:1] if self.is_uniform else self.lengths
        columns = torch.arange(self.num_columns, device=device)
        visible = columns < torch.tensor(lengths, device=device)[:, None, None, None]
        if sliding_window is not None:
            visible = visible & (self.position_ids[:, None, :, None] - columns < sliding_window)
        return visible

    def extend(
        self,
        mask: Tensor | None,
        shape: tuple[int, int],
        window: int | None,
        dtype: torch.dtype,
        *,
        is_causal: bool = True,
    ) -> Tensor:
        """The mask of a layer with the prefix's columns on the left, kept for the other layers of its kind.

        Args:
            mask: `[B or 1, 1 or H, T, K]`, boolean or additive; None is causal (T = K) or open.
            shape: T queries and K keys without the prefix.
            window: Sliding window of the layer, None for full attention.
            dtype: Number format of an additive mask.
            is_causal: Whether None means causal where there is more than one query.

        Returns:
            `[B or 1, 1 or H, T, P + K]` of the kind that `mask` is; boolean for None. Additive where a row attends to
            less than all of its prefix: the scores of a share s of the prefix get log s.
        """
        key = (id(mask), shape, window, is_causal)
        if key not in self._extended:
            # The mask itself is kept beside its extension, so that its id cannot pass to another one.
            self._extended[key] = (mask, self._extend(mask, shape, window, dtype, is_causal))
        return self._extended[key][1]

    def _extend(
        self, mask: Tensor | None, shape: tuple[int, int], window: int | None, dtype: torch.dtype, is_causal: bool
    ) -> Tensor:
        if mask is None:
            is_open = shape[0] == 1 or not is_causal
            mask = torch.ones(1, 1, *shape, dtype=torch.bool, device=self.position_ids.device)
            mask = mask if is_open else mask.tril()
        columns = self.visible(window)
        if self.strengths is not None and mask.dtype == torch.bool:
            mask = _additive(mask, dtype)
        if mask.dtype != torch.bool:
            columns = _additive(columns, dtype)
        if self.strengths is not None:
            weights = torch.tensor(self.strengths, device=mask.device).log().to(dtype)
            columns = columns + weights[:, None, None, None]
        rows = max(len(columns), len(mask))  # one for all where nothing differs between rows
        columns = columns.expand(rows, mask.shape[1], shape[0], self.num_columns)
        return torch.cat([columns, mask.expand(rows, -1, -1, -1)], dim=-1)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    shown = torch.zeros((), dtype=dtype, device=visible.device)
    return torch.where(visible, shown, torch.finfo(dtype).min)
