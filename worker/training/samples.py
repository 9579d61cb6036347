"""A few held-out prompts with the answers of base and prefix, so that a person sees what the loss means."""

import time
from dataclasses import dataclass
from math import ceil

from storage.stored_rows import Row
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.conversations import readable
from worker.engine.generate import GenerationRow, cap_new_tokens, end_ids, stream
from worker.engine.prefix_file import PrefixArray
from worker.engine.prompt_tuning import load_bank
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_prompt, end_token_id, render_row

NUM_SAMPLES = 3
MAX_NEW_TOKENS = 64
MIN_NEW_TOKENS = 8
"""Answers at an evaluation are never shorter for want of time: so many tokens take less than the evaluation itself."""

MAX_TIME_SHARE = 0.02
"""Of the time of a training, that answers in between may take."""

ROOM = 1.25
"""Length of an answer as a multiple of the longest target, as where the prefix is judged."""

MAX_TARGETS = 256
"""Rows whose targets are measured for that."""

CUT = " …"
"""Behind an answer that was cut for want of time, so that nobody takes it for all."""


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
        self._max_new_tokens = self._longest(rows)
        self._answered_at = time.monotonic()
        self._token_s = 0.0
        self._base_answers = self._generate(None, self._max_new_tokens)

    def answer(self, bank: PrefixBank) -> list[dict[str, str]]:
        """Lets slot 0 of a bank answer; each entry has `prompt`, `expected`, `base` and `prefix`."""
        return self._beside_base(self._generate(bank, self._max_new_tokens))

    def answer_in_time(self, prefix: PrefixArray) -> list[dict[str, str]]:
        """As `answer`, as far as the share of a training's time goes that it may take: at least some tokens."""
        passed_s = time.monotonic() - self._answered_at
        affordable = int(MAX_TIME_SHARE * passed_s / self._token_s) if self._token_s else self._max_new_tokens
        limit = min(max(affordable, MIN_NEW_TOKENS), self._max_new_tokens)
        return self._beside_base(self._generate(load_bank(self._base, [prefix]), limit))

    def _beside_base(self, answers: list[str]) -> list[dict[str, str]]:
        rows = zip(self._questions, self._base_answers, answers, strict=True)
        return [
            {"prompt": question.prompt, "expected": question.expected, "base": base, "prefix": prefix}
            for question, base, prefix in rows
        ]

    def _question(self, row: Row) -> Question:
        prompt, expected = render_row(self._rendering, row)
        ids = tuple(encode_prompt(self._base.tokenizer, self._rendering, prompt))
        return Question(readable(self._rendering.kind, prompt), expected, ids)

    def _longest(self, rows: list[Row]) -> int:
        """How many tokens an answer may have, by the targets of the held-out rows."""
        targets = [render_row(self._rendering, row)[1] for row in rows[:: ceil(len(rows) / MAX_TARGETS) or 1]]
        lengths = [len(self._base.tokenizer(target, add_special_tokens=False)["input_ids"]) for target in targets]
        return min(ceil(ROOM * max(lengths, default=MAX_NEW_TOKENS)) + 1, MAX_NEW_TOKENS)

    def _generate(self, bank: PrefixBank | None, max_new_tokens: int) -> list[str]:
        """Greedy answers, all in one batch."""
        began = time.monotonic()
        ends = end_ids(self._base, end_token_id(self._base.tokenizer, self._rendering.kind))
        rows = [
            GenerationRow(
                prompt_ids=question.prompt_ids,
                slot=NO_PREFIX if bank is None else 0,
                max_new_tokens=self._room(question, bank, max_new_tokens),
                end_ids=ends,
            )
            for question in self._questions
        ]
        texts, num_rounds = [""] * len(rows), 0
        for events in stream(self._base, bank, rows) if rows else ():
            num_rounds += 1
            for event in events:
                is_cut = event.finish_reason == "length" and max_new_tokens < self._max_new_tokens
                texts[event.row] += event.text + (CUT if is_cut else "")
        self._answered_at = time.monotonic()
        self._token_s = (self._answered_at - began) / max(num_rounds, 1)
        return [text.strip() for text in texts]

    def _room(self, question: Question, bank: PrefixBank | None, max_new_tokens: int) -> int:
        length = 0 if bank is None else bank.lengths[0]
        measured = self._base.geometry
        return cap_new_tokens(
            len(question.prompt_ids),
            length,
            max_new_tokens,
            measured.context_length,
            has_encoder=measured.has_encoder,
        )


def _spread(rows: list[Row], rendering: Rendering) -> list[Row]:
    """Rows with different prompts from all over the held-out part; a table may hold one prompt many times in a row."""
    distinct = list({render_row(rendering, row)[0]: row for row in reversed(rows)}.values())[::-1]
    count = min(NUM_SAMPLES, len(distinct))
    return [distinct[index * len(distinct) // count] for index in range(count)]
