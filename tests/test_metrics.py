"""Metrics of answers: by hand, and against the libraries that define them."""

import logging

import numpy as np
import pytest
import sacrebleu

from worker.evaluation.metrics import (
    accuracy,
    bleu,
    chrf,
    exact_match,
    macro_f1,
    main_metric,
    measure,
    metrics_of,
    rouge_l,
    task_kind,
)

REFERENCES = [
    "Blue Spice serves cheap Italian food near the river.",
    "The Mill is a pub, and children are welcome.",
    "There is no place like it.",
]
ANSWERS = [
    "Blue Spice serves Italian food, cheap, near the river.",
    "the mill is a pub where children are welcome",
    "",
]


def test_exact_match_ignores_white_space_only() -> None:
    assert exact_match([" a  b\n", "A b", "a b."], ["a b"] * 3).scores.tolist() == [1, 0, 0]


def test_accuracy_ignores_case_and_punctuation_around_a_label() -> None:
    assert accuracy([" Delivery.", "'payment'", "pay ment"], ["delivery", "payment", "payment"]).scores.tolist() == [
        1, 1, 0,
    ]  # fmt: skip


def test_macro_f1_is_the_mean_over_labels() -> None:
    references = ["a", "a", "a", "b", "b", "c"]
    answers = ["a", "a", "b", "b", "nonsense", "a"]
    # a: 2 hits, 3 expected, 3 given: 4/6. b: 1 hit, 2 expected, 2 given: 2/4. c: never given: 0.
    assert macro_f1(answers, references).value == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_macro_f1_of_a_sample_without_a_label_leaves_it_out() -> None:
    tally = macro_f1(["a", "b"], ["a", "b"])
    assert tally.value_of(np.array([2.0, 0, 2, 0, 2, 0])).tolist() == 1.0


def test_rouge_l_counts_the_longest_common_subsequence() -> None:
    # Common: "the cat on mat" (4 of 5 and of 6 words): 2 * 4 / 11.
    assert rouge_l(["The cat, on a mat"], ["the cat sat on the mat"]).value == pytest.approx(8 / 11)
    assert rouge_l(["", "x"], ["a", ""]).scores.tolist() == [0, 0]


def test_rouge_l_is_that_of_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    expected = [
        scorer.score(reference, answer)["rougeL"].fmeasure
        for answer, reference in zip(ANSWERS, REFERENCES, strict=True)
    ]
    assert rouge_l(ANSWERS, REFERENCES).scores == pytest.approx(expected, abs=1e-12)


def test_rouge_l_reads_every_script() -> None:
    assert rouge_l(["Это хороший день"], ["это был хороший день"]).value == pytest.approx(6 / 7)
    assert rouge_l(["我是学生"], ["我是大学生"]).value == pytest.approx(8 / 9)


def test_chrf_is_the_mean_of_those_of_sacrebleu() -> None:
    expected = [
        sacrebleu.sentence_chrf(answer, [reference]).score / 100
        for answer, reference in zip(ANSWERS, REFERENCES, strict=True)
    ]
    assert chrf(ANSWERS, REFERENCES).scores == pytest.approx(expected)


def test_bleu_is_that_of_sacrebleu_on_the_whole_corpus(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sacrebleu"):
        value = bleu(ANSWERS, REFERENCES).value
    assert value == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [REFERENCES]).score / 100)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "exact_match", "rouge_l", "chrf", "bleu"])
def test_perfect_answers_score_one_and_empty_ones_nothing(name: str) -> None:
    assert measure(name, REFERENCES, REFERENCES).value == pytest.approx(1)
    assert measure(name, [""] * 3, REFERENCES).value == 0


def test_answers_without_their_references_are_refused() -> None:
    with pytest.raises(ValueError, match="1 answers and 2 references"):
        measure("chrf", ["a"], ["a", "b"])


def test_few_short_targets_given_again_and_again_are_labels() -> None:
    assert task_kind(["spam", "ham"] * 10) == "labels"
    assert task_kind([f"row {index}" for index in range(20)]) == "text"
    assert task_kind(["spam", "ham"]) == "text"
    assert task_kind(["x" * 101, "y" * 101] * 10) == "text"


def test_main_metric_follows_the_targets() -> None:
    assert main_metric("labels", ["spam"]) == "accuracy"
    assert main_metric("text", ["12", "7", "at 7 pm"]) == "exact_match"
    assert main_metric("text", REFERENCES) == "chrf"
    assert main_metric("labels", ["spam"]) in metrics_of("labels")
