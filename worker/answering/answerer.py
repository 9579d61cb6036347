"""Questions in batches of similar length; what a row is answered depends on nothing else in its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from worker.answering.limits import AnswerLimits
from worker.answering.questions import Answer, Question
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import OutOfMemoryError
from worker.engine.families import Geometry
from worker.engine.generate import GenerationRow, stream
from worker.engine.token_budget import free_bytes

MAX_BATCH_TOKENS = 24_576
"""Of a batch with padding and answers."""

MAX_BATCH_ROWS = {"cpu": 64, "cuda": 256}
"""More at once is no faster on a CPU, and a batch is what a killed process loses."""

MAX_PADDED = 1.5
"""Tokens of a batch with padding for each real one."""

MEMORY_SHARE = 0.3
COPIES = 3
"""How often the keys and values of a batch may lie in memory at once: the cache, and what grows and shrinks it."""

SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: Share of probability that is drawn from.
        seed: Rows draw from it and their place, so a table gets the same answers again.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Answerer:
    """Generates the answers of batches.

    Args:
        base: The loaded base.
        bank: Slot 0 is the prefix; None lets the base answer alone.
        ends: Tokens that end an answer.
        limits: Where answers end otherwise.
        sampling: How tokens are chosen.
    """

    def __init__(
        self,
        base: LoadedBase,
        bank: PrefixBank | None,
        ends: frozenset[int],
        limits: AnswerLimits,
        sampling: Sampling,
    ) -> None:
        self._base = base
        self._bank = bank
        self._ends = ends
        self._limits = limits
        self._sampling = sampling

    def plan(self, questions: Sequence[Question]) -> list[list[Question]]:
        """Questions in batches, those of similar length together; the same questions give the same batches."""
        device = self._base.device
        most_rows = MAX_BATCH_ROWS.get(device.type, MAX_BATCH_ROWS["cpu"])
        most_tokens = token_room(self._base.geometry, device, self._base.dtype)
        return batches(questions, most_rows=most_rows, most_tokens=most_tokens)

    def answer(self, questions: Sequence[Question], is_asked_to_end: Callable[[], bool]) -> list[Answer] | None:
        """The answers of one batch; where memory is short, of one half after the other.

        Args:
            questions: At least one.
            is_asked_to_end: Asked between two tokens.

        Returns:
            One for each question, or None where somebody asked to end before all were there.

        Raises:
            OutOfMemoryError: Not even one row fits into memory.
        """
        try:
            return self._generate(questions, is_asked_to_end)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Out of the handler the failed batch's tensors are gone, and their memory can be given back.
        free_memory(self._base.device)
        if len(questions) == 1:
            raise OutOfMemoryError("The device has too little memory to answer even one row.")
        half = len(questions) // 2
        first = self.answer(questions[:half], is_asked_to_end)
        second = None if first is None else self.answer(questions[half:], is_asked_to_end)
        return None if first is None or second is None else [*first, *second]

    def _generate(self, questions: Sequence[Question], is_asked_to_end: Callable[[], bool]) -> list[Answer] | None:
        texts = [""] * len(questions)
        counts = [0] * len(questions)
        reasons: list[str | None] = [None] * len(questions)
        rows = [self._row(question) for question in questions]
        for events in stream(self._base, self._bank, rows, is_asked_to_end):
            for event in events:
                texts[event.row] += event.text
                counts[event.row] += 1
                reasons[event.row] = event.finish_reason
        if None in reasons:
            return None
        return [
            Answer(question.row, self._limits.trimmed(text), self._note(question, reason), count)
            for question, text, reason, count in zip(questions, texts, reasons, counts, strict=True)
        ]

    def _row(self, question: Question) -> GenerationRow:
        return GenerationRow(
            prompt_ids=question.prompt_ids,
            slot=NO_PREFIX if self._bank is None else 0,
            max_new_tokens=question.max_new_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=self._sampling.seed * SEED_STRIDE + question.row,
            end_ids=self._ends,
        )

    def _note(self, question: Question, reason: str | None) -> str:
        """A row whose own length left less room than others have says so where its answer is cut."""
        if reason != "length" or question.max_new_tokens >= self._limits.max_tokens:
            return ""
        return f"Cut: the prompt leaves room for {question.max_new_tokens:,} tokens."


def batches(questions: Sequence[Question], *, most_rows: int, most_tokens: int) -> list[list[Question]]:
    """Questions in batches, the shortest first.

    Args:
        questions: In any order.
        most_rows: Of one batch.
        most_tokens: Of one batch with padding and answers, unless a single question has more.
    """
    planned: list[list[Question]] = []
    total = 0
    for question in sorted(questions, key=lambda each: (each.num_tokens(), each.row)):
        size = question.num_tokens()
        count = len(planned[-1]) + 1 if planned else 1
        padded, total = count * size, total + size
        if not planned or count > most_rows or padded > most_tokens or padded > MAX_PADDED * total:
            planned.append([])
            total = size
        planned[-1].append(question)
    return planned


def token_room(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens whose keys and values fit into a share of the memory that is free now."""
    per_token = 2 * geometry.num_attentions * geometry.num_kv_heads * geometry.head_dim * dtype.itemsize * COPIES
    return max(1, min(MAX_BATCH_TOKENS, int(MEMORY_SHARE * free_bytes(device) / per_token)))
