"""The verdict: its three words, what it counts, and the rows that it shows."""

import pytest

from worker.evaluation.answers import Answers
from worker.evaluation.bootstrap import Interval
from worker.evaluation.questions import ARMS, Arm, Question
from worker.evaluation.trimming import trimmed
from worker.evaluation.verdict import judge, verdict_of

LABELS = ["spam", "ham"]
TOKENS: dict[Arm, int] = {"base": 10, "instruction": 16, "few-shot": 50, "prefix": 10}


def questions(count: int) -> list[Question]:
    ids = {arm: tuple(range(number)) for arm, number in TOKENS.items()}
    return [Question(f"message {index}", LABELS[index % 2], ids, 2) for index in range(count)]


def answered(count: int, **right: int) -> Answers:
    """So many right answers of each side, from the first row on; `few_shot` stands for the side of that name."""
    texts = {
        arm: [LABELS[index % 2] if index < right[arm.replace("-", "_")] else "no idea" for index in range(count)]
        for arm in ARMS
        if arm.replace("-", "_") in right
    }
    return Answers(texts)


def test_verdict_follows_the_paired_interval() -> None:
    judged = judge(questions(40), answered(40, base=0, instruction=28, few_shot=40, prefix=30), LABELS * 20)
    assert (judged["num_rows"], judged["kind"], judged["metric"]) == (40, "labels", "accuracy")
    assert {arm: told["verdict"] for arm, told in judged["verdicts"].items()} == {
        "base": "helps", "instruction": "no difference", "few-shot": "worse",
    }  # fmt: skip
    base = judged["verdicts"]["base"]
    assert (base["gained"], base["lost"], base["difference"]["value"]) == (30, 0, 0.75)
    assert 0.55 < base["difference"]["low"] < 0.75 < base["difference"]["high"] < 0.9
    assert judged["arms"]["prefix"]["metrics"]["accuracy"]["value"] == 0.75


def test_tokens_saved_are_those_of_the_longer_prompts() -> None:
    verdicts = judge(questions(8), answered(8, base=0, instruction=0, few_shot=0, prefix=8), LABELS * 20)["verdicts"]
    assert {arm: told["tokens_saved"] for arm, told in verdicts.items()} == {
        "base": 0, "instruction": 6, "few-shot": 40,
    }  # fmt: skip


def test_too_few_changed_rows_are_no_difference() -> None:
    sure = Interval(1.0, 0.4, 1.0)
    assert verdict_of(sure, 5) == "no difference"
    assert verdict_of(sure, 6) == "helps"
    assert verdict_of(Interval(-0.2, -0.3, -0.1), 20) == "worse"
    assert verdict_of(Interval(0.1, -0.01, 0.2), 20) == "no difference"


def test_rows_that_gained_and_lost_most_are_shown() -> None:
    asked = questions(12)
    texts = ["spam", "ham"] * 6
    answers = Answers({"base": ["nothing"] * 10 + texts[10:], "prefix": [*texts[:10], "x" * 3000, "nothing"]})
    rows = judge(asked, answers, LABELS * 20)["rows"]
    assert [row["prompt"] for row in rows["gained"]] == [f"message {index}" for index in range(5)]
    assert rows["gained"][0] == {
        "prompt": "message 0", "expected": "spam", "base": "nothing", "prefix": "spam", "change": 1.0,
    }  # fmt: skip
    assert [row["prompt"] for row in rows["lost"]] == ["message 10", "message 11"]
    assert len(rows["lost"][0]["prefix"]) == 2000


def test_texts_are_judged_by_chrf_and_the_gain_decides_the_order() -> None:
    ids: dict[Arm, tuple[int, ...]] = {"base": (1,), "prefix": (1,)}
    asked = [Question(f"row {index}", f"The {index} ships left the harbour at noon.", ids, 9) for index in range(8)]
    close = [f"The {index} ships left the harbour at {'noon' if index == 3 else 'night'}." for index in range(8)]
    judged = judge(asked, Answers({"base": [""] * 8, "prefix": close}), [question.expected for question in asked])
    assert (judged["kind"], judged["metric"]) == ("text", "chrf")
    assert set(judged["arms"]["base"]["metrics"]) == {"exact_match", "rouge_l", "chrf", "bleu"}
    assert judged["verdicts"]["base"]["verdict"] == "helps"
    assert judged["rows"]["gained"][0]["prompt"] == "row 3"


def test_rows_that_nobody_answered_are_left_alone() -> None:
    judged = judge(questions(40), answered(8, base=0, prefix=8), LABELS * 20)
    assert judged["num_rows"] == 8
    assert set(judged["verdicts"]) == {"base"}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["spam"], "spam"),
        (["Dear Ann,\nyours, Tom"], "spam\nMessage: more"),
        (["Dear Ann,\n\nyours, Tom"], "spam\nMessage: more\n\nQueue: ham"),
    ],
)
def test_answers_are_trimmed_to_the_form_of_the_targets(targets: list[str], expected: str) -> None:
    assert trimmed([" \nspam\nMessage: more\n\nQueue: ham\n"], targets) == [expected]
