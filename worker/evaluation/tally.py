"""What a metric counts in each row, so that its value on any sample of the rows is one product of matrices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """The counts of every row, and the metric as a function of their totals.

    Attributes:
        counts: `[num_rows, num_counts]`.
        value_of: From totals `[..., num_counts]` to values `[...]`, 0 to 1.
        scores: What each row scores by itself, `[num_rows]`: the order in which rows are shown as better or worse.
    """

    counts: FloatArray
    value_of: Callable[[FloatArray], FloatArray]
    scores: FloatArray

    @classmethod
    def of_scores(cls, scores: Sequence[float]) -> "Tally":
        """The mean over rows.

        Args:
            scores: One for each row.
        """
        column = np.asarray(scores, dtype=np.float64)
        return cls(np.stack([column, np.ones_like(column)], axis=1), _mean, column)

    @property
    def value(self) -> float:
        """The metric on all rows."""
        return float(self.value_of(self.counts.sum(axis=0)))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.counts)


def _mean(totals: FloatArray) -> FloatArray:
    return np.asarray(totals[..., 0] / totals[..., 1])
