"""Which rows are held out to check a training, where the user brought none: the same for the same table and seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

DEFAULT_VALIDATION_FRACTION = 0.1
MAX_VALIDATION_ROWS = 500
"""A drawn validation part is no larger, since every look at it takes time from the training."""


def drawn_indices(mapping: Mapping[str, Any], num_rows: int, groups: Numbers | None = None) -> list[int]:
    """The rows of the training part that are kept for validation, in rising order.

    Args:
        mapping: Holds `validation_fraction` and `seed`.
        num_rows: Rows of the training part.
        groups: Number of each row's prompt, where prompts repeat. Rows of one prompt are kept together, since a prompt
            that was trained on says little about new ones.

    Returns:
        Indices from 0. A table of two rows or more gives and keeps at least one; a fraction of 0 gives none.
    """
    fraction = mapping.get("validation_fraction")
    fraction = DEFAULT_VALIDATION_FRACTION if fraction is None else float(fraction)
    if num_rows < 2 or fraction <= 0:
        return []
    count = min(max(1, round(num_rows * fraction)), MAX_VALIDATION_ROWS, num_rows - 1)
    # The legacy generator is the one whose numbers are promised to stay the same in later releases of numpy.
    generator = np.random.RandomState(int(mapping.get("seed") or 0))
    if groups is not None and (kept := _whole_groups(groups, count, generator)):
        return kept
    return sorted(int(index) for index in generator.permutation(num_rows)[:count])


def numbered(hashes: Numbers) -> Numbers:
    """Numbers from 0 for values in the order in which they first come; equal values have the same."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _whole_groups(groups: Numbers, count: int, generator: np.random.RandomState) -> list[int]:
    """Rows of whole groups, at most `count`; none where no prompt repeats or each comes too often."""
    sizes = np.bincount(groups)
    if len(sizes) == len(groups):
        return []
    order = generator.permutation(len(sizes))
    order = order[sizes[order] <= count]
    taken = order[: int(np.searchsorted(sizes[order].cumsum(), count, side="right"))]
    return [int(index) for index in np.flatnonzero(np.isin(groups, taken))]
