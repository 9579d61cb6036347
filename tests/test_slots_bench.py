"""The benchmark of slots runs, and its ratio is of the same pair."""

from bench.slots import measure, speedup
from storage.bases.catalog import STARTER_FOLDER
from worker.engine.base import load_base


def test_speedup_is_the_median_of_paired_ratios() -> None:
    assert speedup([(3.0, 1.0), (2.0, 2.0), (8.0, 4.0)]) == 2.0


def test_both_ways_are_timed_for_every_number_of_jobs() -> None:
    measured = measure(load_base(STARTER_FOLDER, device="cpu"), (1, 2), pairs=1, steps=1)
    assert {count: len(pairs) for count, pairs in measured.items()} == {1: 1, 2: 1}
    assert all(seconds > 0 for pairs in measured.values() for pair in pairs for seconds in pair)
