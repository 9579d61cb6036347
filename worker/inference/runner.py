"""One thread per base model that is asked: it loads the base, answers all requests for it together, and lets it go.

All work on a model happens in its own thread. Between two steps new requests join, those whose callers have left go,
and one piece of other work is done. The thread ends with the base, and the next request starts another.
"""

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from storage.errors import BusyError, StudioError
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import EngineError
from worker.inference.answering import Answering
from worker.inference.batch import Batch
from worker.inference.fair_queue import FairQueue
from worker.inference.limits import Limits
from worker.inference.resident import Resident
from worker.inference.ticket import ANONYMOUS, Ticket, Work

__all__ = ["IDLE_S", "Runner", "Ticket", "Work"]

logger = logging.getLogger(__name__)

IDLE_S = 600.0


@dataclass(frozen=True)
class _Pieces:
    """Work that has begun."""

    ticket: Ticket
    events: Iterator[Any]


class Runner:
    """Answers for one base model.

    Args:
        name: Name of the base, for the log.
        load: Loads it, in the runner's thread.
        idle_s: Without work for so long, the base is unloaded.
        limits: How much callers may take at once.
        on_unload: Called in the runner's thread when the base is out of memory.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Resident],
        *,
        idle_s: float = IDLE_S,
        limits: Limits | None = None,
        on_unload: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._load, self._idle_s, self._on_unload = load, idle_s, on_unload
        self._limits = limits or Limits()
        self._changed = threading.Condition()
        self._batches, self._works = FairQueue(), FairQueue()
        self._thread: threading.Thread | None = None
        self._resident: Resident | None = None
        self._is_loaded = False
        self._answering: Answering | None = None
        self._pieces: _Pieces | None = None
        self._num_open = {Batch: 0, object: 0}
        self._is_asked_to_unload = False

    @property
    def is_loaded(self) -> bool:
        """Whether the base is in memory."""
        return self._is_loaded

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._changed:
            return not any(self._num_open.values())

    def submit(self, task: Work | Batch, client: str = ANONYMOUS) -> Ticket:
        """Hands a request in; called in an event loop.

        Args:
            task: Rows to be answered, or work in pieces.
            client: Who asks; clients take turns.

        Raises:
            BusyError: Too many are open already, and nobody has more of those that wait than this client.
        """
        ticket = Ticket(task, client)
        with self._changed:
            kind, waiting = (Batch, self._batches) if isinstance(task, Batch) else (object, self._works)
            if self._num_open[kind] >= self._limits.max_open:
                displaced = waiting.displace(client)
                if displaced is None:
                    raise self._busy()
                displaced.put(self._busy())
                self._num_open[kind] -= 1
            self._num_open[kind] += 1
            waiting.put(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=f"runner-{self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def unload(self) -> None:
        """Asks for the memory of the base: what is under way is answered first, what waits comes after a new load."""
        with self._changed:
            self._is_asked_to_unload = self._thread is not None
            self._changed.notify()

    def _busy(self) -> BusyError:
        return BusyError(
            f"{self._limits.max_open} requests are open for {self.name!r}, as many as it takes at once. "
            "Try again in a few seconds."
        )

    def _serve(self) -> None:
        while self._has_work():
            try:
                self._turn()
            except Exception as error:  # told to the callers, who decide what a reader may see of it
                self._fail(error)

    def _has_work(self) -> bool:
        """Waits for work; without any the base is unloaded and the thread ends."""
        while True:
            with self._changed:
                if self._is_under_way():
                    return True
                timeout_s = self._idle_s if self.is_loaded else 0.0
                self._changed.wait_for(lambda: self._is_waiting() or self._is_asked_to_unload, timeout_s)
                if self._is_waiting() and not self._is_asked_to_unload:
                    return True
                if not self.is_loaded and not self._is_waiting():
                    self._is_asked_to_unload, self._thread = False, None
                    return False
                self._is_asked_to_unload = False
            self._let_go()

    def _turn(self) -> None:
        """What happens between two steps, and a step."""
        self._drop_cancelled()
        if self._resident is None:
            if not self._is_waiting():
                return
            self._resident = self._load()
            self._is_loaded = True
        self._admit(self._resident)
        self._do_piece(self._resident)
        if self._answering is not None and self._answering.is_busy:
            self._close(Batch, len(self._answering.step()))

    def _is_waiting(self) -> bool:
        return len(self._batches) + len(self._works) > 0

    def _is_under_way(self) -> bool:
        return self._pieces is not None or (self._answering is not None and self._answering.is_busy)

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._num_open[object] -= self._works.drop_cancelled()
            self._num_open[Batch] -= self._batches.drop_cancelled()
        if self._answering is not None:
            self._close(Batch, len(self._answering.drop_cancelled()))

    def _admit(self, resident: Resident) -> None:
        if self._answering is None and len(self._batches):
            self._answering = Answering(resident, self._limits)
        while self._answering is not None and not self._is_asked_to_unload:
            ticket = self._next_to_start(self._answering)
            if ticket is None:
                return
            if not self._answering.start(ticket):
                self._close(Batch, 1)

    def _next_to_start(self, answering: Answering) -> Ticket | None:
        with self._changed:
            heads = self._batches.heads()
        # Prompts are read outside the lock, since whoever hands a request in must not wait for it.
        for ticket in heads:
            if answering.may_start(ticket):
                with self._changed:
                    if self._batches.take(ticket):
                        return ticket
        return None

    def _do_piece(self, resident: Resident) -> None:
        """One piece of the work that has begun, or of the next."""
        if self._pieces is None and not self._is_asked_to_unload:
            with self._changed:
                ticket = next(iter(self._works.heads()), None)
                if ticket is not None:
                    self._works.take(ticket)
            if ticket is not None and not isinstance(ticket.task, Batch):
                self._pieces = _Pieces(ticket, ticket.task(resident, ticket.is_cancelled))
        if self._pieces is None:
            return
        ticket = self._pieces.ticket
        try:
            event = next(self._pieces.events, self)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            ticket.put(error)
            event = self
        if event is not None and event is not self:
            ticket.put(event)
        if event is self or ticket.is_cancelled():
            ticket.put(None)
            self._pieces = None
            self._close(object, 1)

    def _close(self, kind: type, count: int) -> None:
        with self._changed:
            self._num_open[kind] -= count

    def _fail(self, error: Exception) -> None:
        """Ends what is under way, or where the base could not be loaded what waits."""
        told: BaseException = error
        if is_out_of_memory(error):
            told = BusyError(
                f"There is too little free memory to run {self.name!r} now. Try again, or with fewer columns."
            )
        with self._changed:
            waiting = self._batches.clear() + self._works.clear() if self._resident is None else []
        tickets = [*waiting, *(self._answering.tickets() if self._answering is not None else [])]
        tickets += [self._pieces.ticket] if self._pieces is not None else []
        for ticket in tickets:
            ticket.put(told)
            self._close(Batch if isinstance(ticket.task, Batch) else object, 1)
        self._answering = self._pieces = None
        if not isinstance(error, StudioError | EngineError):
            logger.error("answering with %r failed", self.name, exc_info=error)
            # What the frames of the error hold would stay in memory with it.
            traceback.clear_frames(error.__traceback__)
            self._let_go()

    def _let_go(self) -> None:
        if self._resident is None:
            return
        device = getattr(getattr(self._resident, "base", None), "device", None)
        self._resident = self._answering = None
        if device is not None:
            free_memory(device)
        self._is_loaded = False
        logger.info("the base model %r was unloaded", self.name)
        self._on_unload()
