"""Held-out rows answered by every side, greedily: rows of the base and of the prefix share each batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import OutOfMemoryError
from worker.engine.generate import GenerationRow, cap_new_tokens, stream
from worker.evaluation.questions import Arm, Question, arms_of, max_new_tokens

FIRST_ROUND = 8
ROUND = 32
"""Rows between two looks at the clock; the first round is small, since nobody knows yet how long one takes."""

MAX_BATCH_TOKENS = 24_576
"""Of a batch with padding and answers; halved where the device has too little memory."""

MAX_PADDED = 1.5
"""Tokens of a batch with padding for each real one: prompts with examples are many times as long as those without."""

Ended = Literal["complete", "time", "asked"]


@dataclass
class Answers:
    """What was answered until the rows or the time ran out.

    Attributes:
        texts: For each side one answer for each of the first rows; the same rows for all sides.
        ended: Whether all rows were answered, the time was up, or somebody asked to end.
    """

    texts: dict[Arm, list[str]] = field(default_factory=dict)
    ended: Ended = "complete"

    @property
    def num_rows(self) -> int:
        """Rows that all sides have answered."""
        return min((len(texts) for texts in self.texts.values()), default=0)


@dataclass(frozen=True)
class _Request:
    """One row of a batch: who is asked what."""

    question: int
    arm: Arm
    row: GenerationRow

    def num_tokens(self) -> int:
        """Its prompt and the longest answer that it may give."""
        return len(self.row.prompt_ids) + self.row.max_new_tokens


class Answerer:
    """Asks rows in rounds.

    Args:
        base: The frozen base.
        bank: Slot 0 is the prefix.
        questions: At least one.
        ends: Tokens that end an answer.
    """

    def __init__(self, base: LoadedBase, bank: PrefixBank, questions: Sequence[Question], ends: frozenset[int]) -> None:
        self._base = base
        self._bank = bank
        self._questions = questions
        self._ends = ends
        self._arms = arms_of(questions)
        self._max_new_tokens = max_new_tokens(questions)
        self._max_batch_tokens = MAX_BATCH_TOKENS

    def answer(self, *, budget_s: float, is_asked_to_end: Callable[[], bool]) -> Answers:
        """Answers round by round; a round that was begun counts only when all of it is done.

        Args:
            budget_s: No further round begins that would probably end after so many seconds.
            is_asked_to_end: Looked at between two tokens.

        Raises:
            OutOfMemoryError: Not even one row fits into memory.
        """
        answers = Answers({arm: [] for arm in self._arms})
        began = time.monotonic()
        while answers.num_rows < len(self._questions):
            done, spent_s = answers.num_rows, time.monotonic() - began
            count = min(ROUND if done else FIRST_ROUND, len(self._questions) - done)
            if done and spent_s * (done + count) / done > budget_s:
                answers.ended = "time"
                break
            texts = self._round(range(done, done + count), is_asked_to_end)
            if texts is None:
                answers.ended = "asked"
                break
            for arm in self._arms:
                answers.texts[arm] += texts[arm]
        return answers

    def _round(self, indices: range, is_asked_to_end: Callable[[], bool]) -> dict[Arm, list[str]] | None:
        requests = [self._request(index, arm) for index in indices for arm in self._arms]
        texts = {arm: [""] * len(indices) for arm in self._arms}
        waiting = sorted(requests, key=_Request.num_tokens)
        while waiting:
            batch = _first_batch(waiting, self._max_batch_tokens)
            answered = self._generate_if_it_fits(batch, is_asked_to_end)
            if is_asked_to_end():
                return None
            if answered is None:
                self._take_less_memory(batch)
                continue
            for request, text in zip(batch, answered, strict=True):
                texts[request.arm][request.question - indices.start] = text
            waiting = waiting[len(batch) :]
        return texts

    def _request(self, index: int, arm: Arm) -> _Request:
        ids = self._questions[index].prompt_ids[arm]
        is_prefixed = arm == "prefix"
        length = self._bank.lengths[0] if is_prefixed else 0
        measured = self._base.geometry
        room = cap_new_tokens(
            len(ids), length, self._max_new_tokens, measured.context_length, has_encoder=measured.has_encoder
        )
        slot = 0 if is_prefixed else NO_PREFIX
        return _Request(index, arm, GenerationRow(ids, slot, max_new_tokens=room, end_ids=self._ends))

    def _generate_if_it_fits(self, batch: Sequence[_Request], is_asked_to_end: Callable[[], bool]) -> list[str] | None:
        """Answers of a batch; None where there is too little memory for it."""
        try:
            return self._generate(batch, is_asked_to_end)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise

    def _generate(self, batch: Sequence[_Request], is_asked_to_end: Callable[[], bool]) -> list[str]:
        texts = [""] * len(batch)
        for events in stream(self._base, self._bank, [request.row for request in batch], is_asked_to_end):
            for event in events:
                texts[event.row] += event.text
        return texts

    def _take_less_memory(self, batch: Sequence[_Request]) -> None:
        free_memory(self._base.device)
        if len(batch) == 1:
            raise OutOfMemoryError("The device has too little memory to answer even one held-out row.")
        self._max_batch_tokens = max(1, sum(request.num_tokens() for request in batch) // 2)


def _first_batch(requests: Sequence[_Request], max_tokens: int) -> list[_Request]:
    """As many of the requests, the shortest first, as stay within `max_tokens` and the padding; at least one."""
    count, total = 0, 0
    for request in requests:
        size = request.num_tokens()
        padded, total = (count + 1) * size, total + size
        if count and (padded > max_tokens or padded > MAX_PADDED * total):
            break
        count += 1
    return list(requests[:count])
