"""The stage after the training: held-out rows answered by base and prefix, and the verdict on them."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from storage.stored_rows import Row
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.errors import EngineError
from worker.engine.generate import end_ids
from worker.engine.tokens import end_token_id, render_row
from worker.evaluation.answers import Answerer
from worker.evaluation.questions import Question, draw_questions
from worker.evaluation.verdict import judge
from worker.training.inputs import Inputs, Task

logger = logging.getLogger(__name__)

BUDGET_SHARE = 0.2
"""Of the time of the training, that the comparison may take."""
MIN_BUDGET_S = 20.0
"""What it may take in any case: enough for a hundred rows of a small base on two cores."""

NO_ROWS = "The dataset has no held-out rows, so nothing is known about rows that the prefix was not trained on."
NONE_NEW = "Every held-out row has a prompt that was trained on, or is longer than the context."
ENDED_AT_ONCE = "The comparison was ended before the first rows were answered."


def compare(
    task: Task,
    base: LoadedBase,
    inputs: Inputs,
    bank: PrefixBank,
    *,
    train_s: float,
    is_asked_to_end: Callable[[], bool],
) -> dict[str, Any]:
    """Answers held-out rows and judges them; a dataset's own test part goes before its validation part.

    A training of hours is not lost for its comparison: where that fails, the reason stands in place of the figures.

    Args:
        task: The job's rows.
        base: The frozen base.
        inputs: Rendering and recipe.
        bank: Slot 0 is the prefix.
        train_s: Seconds that the training took.
        is_asked_to_end: Looked at between two tokens; what was answered until then still counts.

    Returns:
        `metrics["evaluation"]` of docs/contract.md.
    """
    part = "test" if task.test_rows else "validation"
    rows = task.test_rows or task.validation_rows
    told = {
        "part": part,
        # The rows that chose the best state flatter it a little, so they are named.
        "chose_checkpoint": part == "validation",
        "num_held_out": len(rows),
        "num_rows": 0,
    }
    if not rows:
        return {**told, "reason": NO_ROWS}
    began = time.monotonic()
    try:
        budget_s = max(MIN_BUDGET_S, BUDGET_SHARE * train_s)
        judged = _judged(task, base, inputs, bank, rows, budget_s=budget_s, is_asked_to_end=is_asked_to_end)
    except (EngineError, RuntimeError) as error:
        logger.exception("the comparison failed")
        judged = {"reason": f"The comparison failed: {error}"[:500]}
    return {**told, **judged, "seconds": round(time.monotonic() - began, 1)}


def _judged(
    task: Task,
    base: LoadedBase,
    inputs: Inputs,
    bank: PrefixBank,
    rows: Sequence[Row],
    *,
    budget_s: float,
    is_asked_to_end: Callable[[], bool],
) -> dict[str, Any]:
    questions = draw_questions(
        base, inputs.rendering, rows, task.train_rows, num_virtual_tokens=bank.lengths[0], seed=inputs.recipe.seed
    )
    if not questions:
        return {"reason": NONE_NEW}
    ends = end_ids(base, end_token_id(base.tokenizer, inputs.rendering.kind))
    answerer = Answerer(base, bank, questions, ends)
    answers = answerer.answer(budget_s=budget_s, is_asked_to_end=is_asked_to_end)
    if not answers.num_rows:
        return {"reason": ENDED_AT_ONCE}
    judged = judge(questions, answers, _targets(task, questions, inputs), inputs.recipe.seed)
    return {**judged, "ended": answers.ended, "seed": inputs.recipe.seed}


def _targets(task: Task, questions: list[Question], inputs: Inputs) -> list[str]:
    known = [render_row(inputs.rendering, row)[1] for row in task.train_rows]
    return [*known, *(question.expected for question in questions)]
