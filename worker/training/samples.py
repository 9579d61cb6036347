"""A few held-out prompts with the answers of base and prefix, so that a person sees what the loss means."""

import time
from dataclasses import dataclass

import torch

from storage.stored_rows import Row
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.checkpoint import TrainingState
from worker.engine.conversations import readable
from worker.engine.generate import GenerationRow, cap_new_tokens, end_ids, stream
from worker.engine.prompt_tuning import bank_of
from worker.engine.recipe import Recipe
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_prompt, end_token_id, render_row

NUM_SAMPLES = 3
MAX_NEW_TOKENS = 64
MAX_TIME_SHARE = 0.05
"""Of the time of a training, that answers in between may take."""


@dataclass(frozen=True)
class Question:
    """One held-out row.

    Attributes:
        prompt: As text.
        expected: The answer that the row holds.
        prompt_ids: As the model reads it.
    """

    prompt: str
    expected: str
    prompt_ids: tuple[int, ...]


class Samples:
    """Some held-out rows and what base and prefix answer to them.

    Args:
        base: The frozen base; it answers once, here.
        rendering: How rows become prompts.
        rows: Held-out rows that fit into the context.
    """

    def __init__(self, base: LoadedBase, rendering: Rendering, rows: list[Row]) -> None:
        self._base = base
        self._rendering = rendering
        self._questions = [self._question(row) for row in _spread(rows, rendering)]
        self._answered_at = time.monotonic()
        self._cost_s = 0.0
        self._base_answers = self._generate(None)

    def is_affordable(self) -> bool:
        """Whether answering now keeps to the share of time that it may take."""
        return time.monotonic() - self._answered_at > self._cost_s / MAX_TIME_SHARE

    def answer_with(self, state: TrainingState) -> list[dict[str, str]]:
        """As `answer`, with the best prefix of a training under way."""
        method = Recipe.from_dict(dict(state.progress.recipe)).method
        with torch.no_grad():
            return self.answer(bank_of(self._base, method, state.best_numbers.to(self._base.device)))

    def answer(self, bank: PrefixBank) -> list[dict[str, str]]:
        """Lets slot 0 of a bank answer; each entry has `prompt`, `expected`, `base` and `prefix`."""
        rows = zip(self._questions, self._base_answers, self._generate(bank), strict=True)
        return [
            {"prompt": question.prompt, "expected": question.expected, "base": base, "prefix": prefix}
            for question, base, prefix in rows
        ]

    def _question(self, row: Row) -> Question:
        prompt, expected = render_row(self._rendering, row)
        ids = tuple(encode_prompt(self._base.tokenizer, self._rendering, prompt))
        return Question(readable(self._rendering.kind, prompt), expected, ids)

    def _generate(self, bank: PrefixBank | None) -> list[str]:
        """Greedy answers, all in one batch."""
        began = time.monotonic()
        ends = end_ids(self._base, end_token_id(self._base.tokenizer, self._rendering.kind))
        rows = [
            GenerationRow(
                prompt_ids=question.prompt_ids,
                slot=NO_PREFIX if bank is None else 0,
                max_new_tokens=self._room(question, bank),
                end_ids=ends,
            )
            for question in self._questions
        ]
        texts = [""] * len(rows)
        for events in stream(self._base, bank, rows) if rows else ():
            for event in events:
                texts[event.row] += event.text
        self._answered_at = time.monotonic()
        self._cost_s = self._answered_at - began
        return [text.strip() for text in texts]

    def _room(self, question: Question, bank: PrefixBank | None) -> int:
        length = 0 if bank is None else bank.lengths[0]
        measured = self._base.geometry
        return cap_new_tokens(
            len(question.prompt_ids),
            length,
            MAX_NEW_TOKENS,
            measured.context_length,
            has_encoder=measured.has_encoder,
        )


def _spread(rows: list[Row], rendering: Rendering) -> list[Row]:
    """Rows with different prompts from all over the held-out part; a table may hold one prompt many times in a row."""
    distinct = list({render_row(rendering, row)[0]: row for row in reversed(rows)}.values())[::-1]
    count = min(NUM_SAMPLES, len(distinct))
    return [distinct[index * len(distinct) // count] for index in range(count)]
