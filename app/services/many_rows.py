"""Held-out rows answered by all columns of a comparison, with what each answer scores."""

import asyncio
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import httpx

from app.context import AppContext
from app.services import inference
from app.services.columns import Column
from app.services.mapping import render_sample, without_answer
from storage.datasets import get_version
from storage.errors import BusyError, NotFoundError, StudioError
from storage.rows import usable_indices
from storage.stored_rows import StoredRows
from worker.engine.conversations import MESSAGES_COLUMN
from worker.engine.rendering import template_columns
from worker.evaluation.bootstrap import Interval, bootstrap_interval
from worker.evaluation.metrics import MetricName, main_metric, measure, task_kind
from worker.evaluation.tally import Tally
from worker.evaluation.trimming import trimmed

IN_FLIGHT = 8
"""Requests at once: the model server answers the rows of all of them in one batch."""

DEFAULT_ROWS = 20
MAX_ROWS = 200
MAX_TOKENS = 256
BUSY_S = 60.0
PAUSE_S = 0.5
LOOK_S = 0.2

Source = Mapping[str, Any]


@dataclass
class HeldOutRow:
    """One row, and what the columns answered to it.

    Attributes:
        number: Its number in its part, counted from 1.
        asked: The request's way to ask it: `fields`, or the `messages` of a conversation.
        prompt: As text.
        expected: The answer that the row holds.
        answers: One for each column; None until they are there.
        fault: Why there are none.
    """

    number: int
    asked: dict[str, Any]
    prompt: str
    expected: str
    answers: list[str] | None = None
    fault: str = ""


Ended = tuple[HeldOutRow, "list[str] | StudioError"]
"""A row with its answers, or with why there are none."""


@dataclass
class ManyRows:
    """A table of held-out rows under way.

    Attributes:
        columns: What is compared.
        rows: In the order of the table.
        metric: What answers are scored by.
        seconds: How long it has taken so far.
        is_ended: Whether nothing more is coming.
    """

    columns: list[Column]
    rows: list[HeldOutRow]
    metric: MetricName
    seconds: float = 0.0
    is_ended: bool = False
    targets: list[str] = field(default_factory=list)

    @property
    def answered(self) -> list[HeldOutRow]:
        """The rows that have their answers."""
        return [row for row in self.rows if row.answers is not None]

    @property
    def num_done(self) -> int:
        """Rows that are answered, or that cannot be."""
        return sum(row.answers is not None or bool(row.fault) for row in self.rows)

    def tallies(self) -> list[Tally]:
        """Of each column, on the answered rows; none where there is none yet."""
        answered = self.answered
        expected = [row.expected for row in answered]
        return [
            measure(self.metric, [(row.answers or [])[place] for row in answered], expected)
            for place in range(len(self.columns) if answered else 0)
        ]

    def intervals(self) -> list[Interval]:
        """The metric of each column, with the range that it lies in."""
        return [bootstrap_interval(tally) for tally in self.tallies()]

    def scores(self) -> dict[int, list[float]]:
        """By the row's number, what each column's answer scores, 0 to 1."""
        tallies = self.tallies()
        return {
            row.number: [float(tally.scores[place]) for tally in tallies] for place, row in enumerate(self.answered)
        }


def held_out(context: AppContext, source: Source | None, columns: Sequence[Column], num_rows: int) -> ManyRows:
    """Rows that the prefix was not trained on, from all over the validation part.

    Args:
        context: The open stores.
        source: The prefix whose dataset and rendering hold for all columns, as `prefixes.describe` gives it.
        columns: What is compared.
        num_rows: At most so many.

    Raises:
        NotFoundError: There is no prefix among the columns, or its rows are gone.
    """
    version_id = (source or {}).get("dataset_version_id")
    if not version_id:
        raise NotFoundError("No held-out rows are known for these columns. Choose a prefix that was trained here.")
    with context.database.read() as session:
        version = get_version(session, version_id)
    indices = usable_indices(context.store, version, "validation")
    if not indices:
        raise NotFoundError("This dataset keeps no row for validation. Raise the share that is held out.")
    count = min(num_rows, MAX_ROWS, len(indices))
    chosen = [indices[place * len(indices) // count] for place in range(count)]
    part = version.blobs.get("validation") or version.blobs["train"]
    rows = []
    for index, cells in zip(chosen, StoredRows(context.store.path(part), chosen), strict=True):
        sample = render_sample(cells, version.mapping, index + 1)
        asked = _asked(without_answer(cells, version.mapping), (source or {})["rendering"])
        rows.append(HeldOutRow(index + 1, asked, sample["prompt"], sample["target"].strip()))
    targets = [row.expected for row in rows]
    evaluation = ((source or {}).get("metrics") or {}).get("evaluation") or {}
    metric = evaluation.get("metric") or main_metric(task_kind(targets), targets)
    return ManyRows(list(columns), rows, metric, targets=targets)


def answer_all(
    context: AppContext, table: ManyRows, body: Mapping[str, Any], cancelled: Event, *, client: str
) -> Generator[ManyRows, None, None]:
    """Has the rows answered, several at once.

    Args:
        context: The open stores.
        table: What `held_out` chose; it is filled.
        body: What all requests have in common, such as `rendering`; see `/v1/compare`.
        cancelled: Ends it; what is being answered is dropped.
        client: Who asks.

    Yields:
        The table, whenever a row has come or a moment has passed.

    Raises:
        StudioError: The model server refuses every row, or is not there.
    """
    began = time.monotonic()
    whole = {"max_tokens": max_tokens_for(table.targets), **body, "models": table.columns}
    ended: SimpleQueue[Ended | None] = SimpleQueue()
    asking = Thread(target=_ask_all, args=(context, table.rows, whole, client, cancelled, ended), name="many-rows")
    asking.start()
    try:
        while (told := _next(ended, LOOK_S)) is not None:
            if isinstance(told, tuple):
                _take(table, *told)
            table.seconds = time.monotonic() - began
            yield table
    finally:
        cancelled.set()
    table.is_ended = True
    yield table


def max_tokens_for(targets: Sequence[str]) -> int:
    """Room for the longest expected answer and more: no usual tokenizer makes more than a token of two bytes of it."""
    longest = max((len(target.encode()) for target in targets), default=0)
    return min(MAX_TOKENS, 8 + longest // 2)


def _asked(fields: Mapping[str, str], rendering: Mapping[str, Any]) -> dict[str, Any]:
    """How a row is asked: by the cells of the template, or as the conversation that it holds."""
    if rendering.get("kind") == "conversation":
        return {"messages": json.loads(fields[MESSAGES_COLUMN])}
    used = template_columns(str(rendering.get("template") or ""))
    return {"fields": {name: fields[name] for name in used if name in fields}}


def _ask_all(
    context: AppContext,
    rows: Sequence[HeldOutRow],
    body: Mapping[str, Any],
    client: str,
    cancelled: Event,
    ended: "SimpleQueue[Ended | None]",
) -> None:
    """Asks every row, and says of each how it ended; None says that nothing more is coming."""

    async def run() -> None:
        free = asyncio.Semaphore(IN_FLIGHT)

        async def one(row: HeldOutRow) -> None:
            async with free:
                if cancelled.is_set():
                    return
                ended.put((row, await _answer_or_fault(http_client, context, {**body, **row.asked}, client)))

        async with inference.many_requests() as http_client:
            tasks = [asyncio.create_task(one(row)) for row in rows]
            waiting: set[asyncio.Task[None]] = set(tasks)
            while waiting and not cancelled.is_set():
                _, waiting = await asyncio.wait(waiting, timeout=LOOK_S)
            # A request that is dropped closes its connection, and so ends its generation at the next token.
            for task in waiting:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        ended.put(None)


async def _answer_or_fault(
    http_client: httpx.AsyncClient, context: AppContext, body: dict[str, Any], client: str
) -> list[str] | StudioError:
    """The answers of all columns to one row; a model server that has too much to do is asked again."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            told = await inference.compare_later(http_client, context, body, client=client)
            return [str(column["text"]) for column in told]
        except BusyError as fault:
            if time.monotonic() > deadline:
                return fault
        except StudioError as fault:
            return fault
        await asyncio.sleep(PAUSE_S)


def _next(ended: "SimpleQueue[Ended | None]", timeout_s: float) -> "Ended | float | None":
    """What ended next; the time where nothing did for a while, and None where all is over."""
    try:
        return ended.get(timeout=timeout_s)
    except Empty:
        return timeout_s


def _take(table: ManyRows, row: HeldOutRow, told: list[str] | StudioError) -> None:
    """Puts the answers of a row into the table; a row that is refused (it may be too long) says why.

    Raises:
        StudioError: The model server has too much to do all the time, or has refused every row so far.
    """
    if not isinstance(told, StudioError):
        row.answers = trimmed(told, table.targets)
        return
    row.fault = told.message
    num_faults = sum(bool(each.fault) for each in table.rows)
    if isinstance(told, BusyError) or (not table.answered and num_faults >= min(IN_FLIGHT, len(table.rows))):
        raise told
