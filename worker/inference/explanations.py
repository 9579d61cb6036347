"""Behind the end of each answer with a prefix: what the prefix changed in it, scored while others go on."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from storage.errors import StudioError
from worker.engine.errors import EngineError
from worker.engine.explain import Explanation, Question, score
from worker.engine.generate import end_ids
from worker.engine.tokens import end_token_id
from worker.inference.batch import BatchEvent, Column, Ended, Piece, Started
from worker.inference.resident import Resident
from worker.inference.ticket import Ticket, Work


@dataclass(frozen=True)
class Explained:
    """What the prefix of a column changed in its answer.

    Attributes:
        column: Which.
        mean_kl: Mean KL divergence in nats over the answer.
        tokens: See `Explanation.told`; an end token is left out.
    """

    column: int
    mean_kl: float
    tokens: list[dict[str, object]]


@dataclass(frozen=True)
class NotExplained:
    """Why a column is not explained, in a sentence."""

    column: int
    reason: str


Submit = Callable[[Work], Ticket]
"""Hands work in for the caller of a comparison."""

ExplainedEvent = BatchEvent | Explained | NotExplained


def explanation_of(column: Column, index: int, prompt_ids: tuple[int, ...], answer_ids: tuple[int, ...]) -> Work:
    """Work for the runner of the column's base, in pieces; the last one is an `Explained`.

    Args:
        column: With a prefix.
        index: Its place in the comparison.
        prompt_ids: What it was asked.
        answer_ids: Every token that it answered, an end token included.
    """

    def work(resident: Resident, cancelled: Callable[[], bool]) -> Iterator[Explained | None]:
        bank, slots = resident.bank_for([column.target.prefix])
        assert bank is not None
        base = resident.base
        ends = end_ids(base, end_token_id(base.tokenizer, column.prompt.kind_for(base.tokenizer)))
        shown_ids = answer_ids[:-1] if answer_ids[-1] in ends else answer_ids
        # An answer of nothing but its end is explained by that end, though nothing of it is shown.
        question = Question(prompt_ids, shown_ids or answer_ids, slots[0], column.strength)
        explanation = Explanation(base, question)
        for tokens in score(base, bank, question):
            explanation.tokens += tokens
            if cancelled():
                return
            yield None
        yield Explained(index, round(explanation.mean_kl, 5), explanation.told() if shown_ids else [])

    return work


async def with_explanations(
    events: AsyncGenerator[BatchEvent, None], started: Sequence[Started], columns: Sequence[Column], submit: Submit
) -> AsyncGenerator[ExplainedEvent, None]:
    """The events of a batch, and as they get ready the explanations of the columns that have a prefix.

    Args:
        events: Of the batch; closed with this.
        started: What each column was asked.
        columns: In the same order.
        submit: Hands work to the runner of their base.
    """
    merged: asyncio.Queue[ExplainedEvent | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_gather(events, started, columns, submit, merged.put_nowait))]
    try:
        while (event := await merged.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gather(
    events: AsyncGenerator[BatchEvent, None],
    started: Sequence[Started],
    columns: Sequence[Column],
    submit: Submit,
    put: Callable[[Any], None],
) -> None:
    """Puts every event, then None, or what ended them."""
    answers: list[list[int]] = [[] for _ in columns]
    try:
        async with asyncio.TaskGroup() as explaining, aclosing(events):
            async for event in events:
                put(event)
                if isinstance(event, Piece):
                    answers[event.column].append(event.token_id)
                elif isinstance(event, Ended) and columns[event.column].target.prefix is not None:
                    index = event.column
                    work = explanation_of(columns[index], index, started[index].prompt_ids, tuple(answers[index]))
                    explaining.create_task(_explain(index, work, submit, put))
        put(None)
    except ExceptionGroup as errors:
        put(errors.exceptions[0])


async def _explain(index: int, work: Work, submit: Submit, put: Callable[[Any], None]) -> None:
    try:
        async with aclosing(submit(work).events()) as pieces:
            async for piece in pieces:
                if piece is not None:
                    put(piece)
    except (StudioError, EngineError) as error:
        # The answer itself is complete, so only its explanation is missing.
        put(NotExplained(index, error.message))
