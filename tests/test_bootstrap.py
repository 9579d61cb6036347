"""Intervals: repeatable, as wide as theory says, paired where rows are the same, and modest about few rows."""

import numpy as np
import pytest

from worker.evaluation.bootstrap import bootstrap_interval, paired_difference
from worker.evaluation.metrics import bleu, macro_f1
from worker.evaluation.tally import Tally


def test_interval_of_a_share_is_that_of_the_normal_approximation() -> None:
    found = bootstrap_interval(Tally.of_scores([1.0] * 150 + [0.0] * 50))
    spread = 1.96 * (0.75 * 0.25 / 200) ** 0.5
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.75 - spread, 0.75 + spread), abs=0.012)


def test_same_seed_gives_the_same_interval() -> None:
    tally = Tally.of_scores(list(np.linspace(0, 1, 40)))
    assert bootstrap_interval(tally, 3) == bootstrap_interval(tally, 3)
    assert bootstrap_interval(tally, 3) != bootstrap_interval(tally, 4)


def test_pairs_make_a_difference_surer_than_its_sides() -> None:
    base = np.random.RandomState(0).rand(60) * 0.8
    sides = Tally.of_scores(base + np.linspace(0.08, 0.12, 60)), Tally.of_scores(base)
    found = paired_difference(*sides)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.097, 0.103), abs=0.001)
    assert bootstrap_interval(sides[0]).low < bootstrap_interval(sides[1]).high


def test_rows_that_are_all_alike_are_no_certainty() -> None:
    assert bootstrap_interval(Tally.of_scores([1.0] * 30)).low == pytest.approx(0.9)
    assert bootstrap_interval(Tally.of_scores([0.0] * 30)).high == pytest.approx(0.1)
    same = paired_difference(Tally.of_scores([1.0, 0.0]), Tally.of_scores([1.0, 0.0]))
    assert (same.value, same.low, same.high) == (0, -1, 1)


def test_one_row_says_nothing() -> None:
    assert paired_difference(Tally.of_scores([1.0]), Tally.of_scores([0.0])).low <= 0


def test_corpus_metrics_have_intervals_around_their_value() -> None:
    references = [f"the {animal} sat on the red mat today" for animal in ("cat", "dog", "cow", "hen", "owl")] * 4
    answers = [text if index % 3 else "a quite different answer indeed" for index, text in enumerate(references)]
    for tally in (bleu(answers, references), macro_f1(answers, references)):
        found = bootstrap_interval(tally)
        assert 0 <= found.low < found.value < found.high <= 1


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 rows"):
        paired_difference(Tally.of_scores([1.0, 0.0]), Tally.of_scores([1.0]))
