"""Ours against a peer on the same test rows: paired bootstrap over rows and seeds; knows no model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.cells import Record
from worker.evaluation.bootstrap import Interval

NUM_SAMPLES = 4000
CONFIDENCE = 0.95

FloatArray = NDArray[np.float64]


def mean_loss(records: Sequence[Record]) -> float:
    """Nats per target token of the test part, over all seeds."""
    return float(_table(records, "row_losses").sum() / _table(records, "row_tokens").sum())


def mean_score(records: Sequence[Record]) -> float:
    """The deciding metric on the test part, over all seeds."""
    return float(np.mean([record["metrics"][record["metric"]] for record in records]))


def loss_difference(ours: Sequence[Record], peer: Sequence[Record]) -> Interval:
    """Ours less the peer's, in nats per target token: below zero ours is better.

    Args:
        ours: One record for each seed.
        peer: The same seeds in the same order.

    Raises:
        ValueError: The two were measured on different rows.
    """
    _check_same_rows(ours, peer)
    tokens = _table(ours, "row_tokens")
    seeds, rows = _weights(*tokens.shape)
    counted = _drawn(tokens, seeds, rows)
    change = _table(ours, "row_losses") - _table(peer, "row_losses")
    samples = _drawn(change, seeds, rows) / counted
    return _interval(float(change.sum() / tokens.sum()), samples)


def score_difference(ours: Sequence[Record], peer: Sequence[Record]) -> Interval:
    """Ours less the peer's in the mean row score of the deciding metric: above zero ours is better."""
    change = _table(ours, "row_scores") - _table(peer, "row_scores")
    seeds, rows = _weights(*change.shape)
    return _interval(float(change.mean()), _drawn(change, seeds, rows) / change.size)


def _check_same_rows(ours: Sequence[Record], peer: Sequence[Record]) -> None:
    if {record["data_sha256"] for record in [*ours, *peer]} != {ours[0]["data_sha256"]}:
        raise ValueError(f"cells of {ours[0]['task']} saw different rows; start anew in an empty --state folder")


def _table(records: Sequence[Record], field: str) -> FloatArray:
    """`[seeds, rows]`."""
    return np.array([record[field] for record in records], dtype=np.float64)


def _weights(num_seeds: int, num_rows: int) -> tuple[FloatArray, FloatArray]:
    """How often each seed and each row is drawn, `[NUM_SAMPLES, seeds]` and `[NUM_SAMPLES, rows]`."""
    generator = np.random.RandomState(0)
    drawn: list[Any] = [
        generator.multinomial(count, np.full(count, 1 / count), size=NUM_SAMPLES) for count in (num_seeds, num_rows)
    ]
    return drawn[0].astype(np.float64), drawn[1].astype(np.float64)


def _drawn(table: FloatArray, seeds: FloatArray, rows: FloatArray) -> FloatArray:
    """Sum of a table over each sample of seeds and rows."""
    total: FloatArray = ((seeds @ table) * rows).sum(axis=1)
    return total


def _interval(value: float, samples: FloatArray) -> Interval:
    margin = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [margin, 1 - margin])
    return Interval(value, float(low), float(high))
