"""How sure a figure is: intervals by drawing the rows again and again, the same rows for both sides of a difference."""

from dataclasses import dataclass

import numpy as np

from worker.evaluation.tally import FloatArray, Tally

NUM_SAMPLES = 2000
CONFIDENCE = 0.95
ALIKE = 1e-9


@dataclass(frozen=True)
class Interval:
    """A figure with the range that it lies in, 95 times of 100.

    Attributes:
        value: On the rows as they are.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """For JSON, with as many digits as a few hundred rows can bear."""
        return {"value": round(self.value, 5), "low": round(self.low, 5), "high": round(self.high, 5)}


def bootstrap_interval(tally: Tally, seed: int = 0) -> Interval:
    """The percentile interval of a metric.

    Args:
        tally: At least one row.
        seed: Of the draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    return _interval(tally.value, _samples(tally, _weights(len(tally), seed)), tally.scores, lowest=0.0)


def paired_difference(tally: Tally, other: Tally, seed: int = 0) -> Interval:
    """By how much `tally` is better than `other` on the same rows, which are drawn together.

    Args:
        tally: At least one row.
        other: The same metric of the same rows.
        seed: Of the draws.

    Raises:
        ValueError: They are of different rows.

    Source: Koehn, Statistical Significance Tests for Machine Translation Evaluation (2004).
    """
    if len(tally) != len(other):
        raise ValueError(f"{len(tally)} and {len(other)} rows; expected the same rows on both sides")
    weights = _weights(len(tally), seed)
    differences = _samples(tally, weights) - _samples(other, weights)
    return _interval(tally.value - other.value, differences, tally.scores - other.scores, lowest=-1.0)


def _weights(num_rows: int, seed: int) -> FloatArray:
    """How often each row is drawn, `[NUM_SAMPLES, num_rows]`."""
    # The legacy generator is the one whose numbers are promised to stay the same in later releases of numpy.
    generator = np.random.RandomState(seed)
    return generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=NUM_SAMPLES).astype(np.float64)


def _samples(tally: Tally, weights: FloatArray) -> FloatArray:
    return tally.value_of(weights @ tally.counts)


def _interval(value: float, samples: FloatArray, scores: FloatArray, lowest: float) -> Interval:
    margin = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [margin, 1 - margin])
    if np.ptp(scores) < ALIKE:
        # Rows that are all alike give samples that are all alike. Of such rows up to 3 in n may still be different
        # (the rule of three), and 120 right answers are not yet a proof that the next one is right.
        room = 3 / len(scores)
        low, high = max(lowest, low - room), min(1.0, high + room)
    return Interval(value, float(min(low, value)), float(max(high, value)))
