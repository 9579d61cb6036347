"""The requests that a loaded base answers at once: their rows share one running batch, each gets its own events."""

import time
from collections.abc import Callable

from torch import Tensor

from worker.engine.device_memory import is_out_of_memory
from worker.engine.generation_row import TokenEvent
from worker.engine.running_batch import RunningBatch, WritingRow
from worker.inference.batch import Batch, BatchEvent, Ended, Piece
from worker.inference.limits import Limits
from worker.inference.logprobs import spell
from worker.inference.pace import Pace
from worker.inference.prepared import Prepared, prepare
from worker.inference.proof import prove
from worker.inference.resident import Resident
from worker.inference.ticket import Ticket

Clock = Callable[[], float]


class _Column:
    """One row of a request: its count and its clock."""

    def __init__(self, index: int, writing: WritingRow, began: float) -> None:
        self.index = index
        self.writing = writing
        self._began = began
        self._num_tokens = 0
        self._first_s = 0.0

    def told(self, event: TokenEvent, resident: Resident, batch: Batch, now: float) -> list[BatchEvent]:
        """The events of a token."""
        self._num_tokens += 1
        elapsed_s = now - self._began
        self._first_s = self._first_s or elapsed_s
        is_spelled = batch.sampling.top_logprobs is not None and event.token_id not in self.writing.row.end_ids
        logprobs = spell(resident.base.tokenizer, event) if is_spelled else None
        piece = Piece(self.index, event.text, event.token_id, logprobs)
        if event.finish_reason is None:
            return [piece]
        speed = round(self._num_tokens / max(elapsed_s, 1e-9), 2)
        return [piece, Ended(self.index, event.finish_reason, self._num_tokens, speed, round(self._first_s, 4))]


class _Request:
    """One request under way."""

    def __init__(self, ticket: Ticket, batch: Batch, prepared: Prepared, columns: list[_Column]) -> None:
        self.ticket = ticket
        self.batch = batch
        self.prepared = prepared
        self.columns = columns
        self.num_open = len(columns)
        self.is_proven = not batch.has_proof

    def first_logits(self) -> list[Tensor]:
        """Of the columns that have their first token."""
        found = [column.writing.first_logits for column in self.columns]
        return [logits for logits in found if logits is not None]


class Answering:
    """What is under way on one loaded base.

    Args:
        resident: The base.
        limits: How much is answered at once.
        clock: Seconds, for speeds and for the pace of reading prompts.
    """

    def __init__(self, resident: Resident, limits: Limits, clock: Clock = time.perf_counter) -> None:
        self._resident = resident
        self._limits = limits
        self._clock = clock
        self._rows = RunningBatch(resident.base)
        self._requests: dict[WritingRow, _Request] = {}
        self._columns: dict[WritingRow, _Column] = {}
        self._prepared: dict[Ticket, Prepared | Exception] = {}
        self._starting: Ticket | None = None
        self._pace = Pace(limits.hold_s, limits.alone_hold_s)

    @property
    def is_busy(self) -> bool:
        """Whether a row is under way."""
        return bool(self._columns)

    def tickets(self) -> list[Ticket]:
        """The requests that are under way."""
        starting = [] if self._starting is None else [self._starting]
        return [*starting, *(request.ticket for request in dict.fromkeys(self._requests.values()))]

    def may_start(self, ticket: Ticket) -> bool:
        """Whether the rows of a request may join: there is room for them, with prompts and answers at their longest.

        A request that is refused may start too, so that it is told.
        """
        batch = _batch(ticket)
        num_own = sum(request.ticket.client == ticket.client for request in self._requests.values())
        has_rows = (
            self._rows.num_rows + len(batch.columns) <= self._limits.max_rows
            and num_own + len(batch.columns) <= self._limits.max_client_rows
        )
        if not self.is_busy:
            return True
        if not has_rows:
            return False
        prepared = self._prepare(ticket)
        return isinstance(prepared, Exception) or (
            self._rows.bytes_with(list(zip(prepared.rows, prepared.prefixes, strict=True)))
            <= self._resident.cache_bytes
        )

    def start(self, ticket: Ticket) -> bool:
        """Lets the rows of a request join, or tells why they cannot; returns whether they did."""
        self._starting = ticket
        prepared = self._prepare(ticket)
        del self._prepared[ticket]
        if isinstance(prepared, Exception):
            ticket.put(prepared)
            self._starting = None
            return False
        ticket.put(prepared.started)
        began = self._clock()
        columns = [
            _Column(index, self._rows.join(row, prefix), began)
            for index, (row, prefix) in enumerate(zip(prepared.rows, prepared.prefixes, strict=True))
        ]
        request = _Request(ticket, _batch(ticket), prepared, columns)
        for column in columns:
            self._requests[column.writing] = request
            self._columns[column.writing] = column
        self._starting = None
        return True

    def drop_cancelled(self) -> list[Ticket]:
        """Lets the rows of callers who have left go; returns the requests that ended so."""
        gone = [ticket for ticket in self.tickets() if ticket.is_cancelled()]
        for writing, request in list(self._requests.items()):
            if request.ticket in gone:
                self._leave(writing)
        for ticket in [ticket for ticket in self._prepared if ticket.is_cancelled()]:
            del self._prepared[ticket]
        return gone

    def step(self) -> list[Ticket]:
        """One token of every row, and a part of the prompts that are not read; returns the requests that ended."""
        began, num_reading = self._clock(), self._rows.num_reading
        max_prompt_tokens = self._pace.max_prompt_tokens(self._rows.num_rows - num_reading, num_reading)
        before = self._rows.num_read
        stepped = self._rows.step(max_prompt_tokens)
        now = self._clock()
        self._pace.learn(self._rows.num_read - before, now - began)
        told: dict[_Request, list[BatchEvent | None]] = {}
        for writing, event in stepped:
            request, column = self._requests[writing], self._columns[writing]
            told.setdefault(request, []).extend(column.told(event, self._resident, request.batch, now))
            if event.finish_reason is not None:
                request.num_open -= 1
                self._leave(writing)
        for request, events in told.items():
            request.ticket.put(*events)
            self._prove(request)
            if not request.num_open:
                request.ticket.put(None)
        return [request.ticket for request in told if not request.num_open]

    def _prepare(self, ticket: Ticket) -> Prepared | Exception:
        """The request as rows, or why it is refused; read once however long it waits."""
        if ticket not in self._prepared:
            try:
                self._prepared[ticket] = prepare(self._resident, _batch(ticket))
            except Exception as error:  # one caller's, and so no reason to end what others are told
                if is_out_of_memory(error):
                    raise
                self._prepared[ticket] = error
        return self._prepared[ticket]

    def _prove(self, request: _Request) -> None:
        first = request.first_logits()
        if request.is_proven or len(first) < len(request.columns):
            return
        request.is_proven = True
        proof = prove(self._resident.base, request.prepared.rows, first)
        if proof is not None:
            request.ticket.put(proof)

    def _leave(self, writing: WritingRow) -> None:
        self._rows.leave(writing)
        del self._requests[writing], self._columns[writing]


def _batch(ticket: Ticket) -> Batch:
    assert isinstance(ticket.task, Batch)
    return ticket.task
