"""How far an answering job is, and how long it will take from here."""

import time
from collections.abc import Sequence
from typing import Any

from worker.answering.questions import Answer, Question
from worker.training.recorder import Recorder

MAX_EXAMPLES = 3


class Pace:
    """Tells a job's row about each batch.

    Args:
        recorder: Writes progress.
        num_done: Rows that earlier attempts answered.
        num_rows: Rows of the table.
    """

    def __init__(self, recorder: Recorder, num_done: int, num_rows: int) -> None:
        self._recorder = recorder
        self._num_before = num_done
        self._num_rows = num_rows
        self._num_tokens = 0
        self._began = time.monotonic()

    def tell(self, num_done: int, batch: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Notes a batch.

        Args:
            num_done: Rows that have their answer now.
            batch: What was asked.
            answers: One for each.
        """
        self._num_tokens += sum(answer.num_tokens for answer in answers)
        spent_s = max(time.monotonic() - self._began, 1e-6)
        rows_per_s = (num_done - self._num_before) / spent_s
        examples = [
            {"prompt": question.shown, "answer": answer.text}
            for question, answer in list(zip(batch, answers, strict=True))[:MAX_EXAMPLES]
        ]
        figures: dict[str, Any] = {
            "rows_per_second": round(rows_per_s, 3),
            "tokens_per_second": round(self._num_tokens / spent_s, 1),
        }
        eta_s = round((self._num_rows - num_done) / rows_per_s, 1) if rows_per_s else None
        self._recorder.add("step", {"rows": num_done, **figures}, num_done)
        self._recorder.progress(step=num_done, eta_s=eta_s, metrics={**figures, "examples": examples})
