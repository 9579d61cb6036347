"""The verdict: whether the prefix helps, against what, by how much and how sure that is; as one dictionary for JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from worker.evaluation.answers import Answers
from worker.evaluation.bootstrap import Interval, bootstrap_interval, paired_difference
from worker.evaluation.metrics import MetricName, main_metric, measure, metrics_of, task_kind
from worker.evaluation.questions import Arm, Question
from worker.evaluation.tally import Tally
from worker.evaluation.trimming import trimmed

Verdict = Literal["helps", "no difference", "worse"]

MIN_CHANGED_ROWS = 6
"""Rows that must have changed before a verdict is given: the fewest at which a sign test can be below 5 %."""

NUM_ROWS_SHOWN = 5
MAX_TEXT = 2_000
"""Characters of a text that is kept to be shown."""

SAME = 1e-9


def judge(questions: Sequence[Question], answers: Answers, targets: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Compares the prefix with every other side on the rows that all of them answered.

    Args:
        questions: In the order in which they were asked; rows without answers are left alone.
        answers: For each side one answer for each of the first questions.
        targets: All targets that are known, those of the training part too.
        seed: Of the intervals.

    Returns:
        `num_rows`, `kind`, `metric` (the one that decides), `arms`, `verdicts` and `rows`; see docs/contract.md.
    """
    asked = questions[: answers.num_rows]
    references = [question.expected for question in asked]
    kind = task_kind(targets)
    metric = main_metric(kind, references)
    texts = {arm: trimmed(given[: len(asked)], targets) for arm, given in answers.texts.items()}
    tallies = {
        arm: {name: measure(name, given, references) for name in metrics_of(kind)} for arm, given in texts.items()
    }
    deciding = {arm: by_name[metric] for arm, by_name in tallies.items()}
    tokens = {arm: _mean_tokens(asked, arm) for arm in texts}
    arms = {arm: _arm(by_name, tokens[arm], seed) for arm, by_name in tallies.items()}
    if "few-shot" in arms:
        arms["few-shot"]["examples"] = max(question.num_examples for question in asked)
    return {
        "num_rows": len(asked),
        "kind": kind,
        "metric": metric,
        "arms": arms,
        "verdicts": {
            arm: {**_against(deciding["prefix"], other, seed), "tokens_saved": round(tokens[arm] - tokens["prefix"], 1)}
            for arm, other in deciding.items()
            if arm != "prefix"
        },
        "rows": _extremes(asked, texts, deciding["prefix"].scores - deciding["base"].scores),
    }


def verdict_of(difference: Interval, num_changed: int) -> Verdict:
    """What a difference says.

    Args:
        difference: Of the prefix over the other side.
        num_changed: Rows on which the two score differently.
    """
    if num_changed < MIN_CHANGED_ROWS or difference.low <= 0 <= difference.high:
        return "no difference"
    return "helps" if difference.value > 0 else "worse"


def _against(prefix: Tally, other: Tally, seed: int) -> dict[str, Any]:
    difference = paired_difference(prefix, other, seed)
    change = prefix.scores - other.scores
    gained, lost = int((change > SAME).sum()), int((change < -SAME).sum())
    return {
        "verdict": verdict_of(difference, gained + lost),
        "difference": difference.to_dict(),
        "gained": gained,
        "lost": lost,
    }


def _arm(by_name: Mapping[MetricName, Tally], prompt_tokens: float, seed: int) -> dict[str, Any]:
    intervals = {name: bootstrap_interval(tally, seed).to_dict() for name, tally in by_name.items()}
    return {"metrics": intervals, "prompt_tokens": round(prompt_tokens, 1)}


def _mean_tokens(questions: Sequence[Question], arm: Arm) -> float:
    return sum(len(question.prompt_ids[arm]) for question in questions) / len(questions)


def _extremes(
    questions: Sequence[Question], texts: Mapping[Arm, Sequence[str]], change: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """The rows that gained and lost most against the base; among equals the first ones that were drawn."""
    order = np.argsort(-change, kind="stable")
    gained = [int(index) for index in order if change[index] > SAME][:NUM_ROWS_SHOWN]
    lost = [int(index) for index in np.argsort(change, kind="stable") if change[index] < -SAME][:NUM_ROWS_SHOWN]

    def shown(index: int) -> dict[str, Any]:
        question = questions[index]
        row = {"prompt": question.prompt, "expected": question.expected}
        row |= {"base": texts["base"][index], "prefix": texts["prefix"][index]}
        return {name: text[:MAX_TEXT] for name, text in row.items()} | {"change": round(float(change[index]), 4)}

    return {"gained": [shown(index) for index in gained], "lost": [shown(index) for index in lost]}
