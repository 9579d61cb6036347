"""One thread per base model runs its batches one after another, and hands their events to asyncio.

All work on a model happens in its own thread, so no two batches meet, and a base that nobody asks goes out of memory.
"""

import asyncio
import gc
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import torch

from storage.errors import BusyError
from worker.inference.resident import Resident

logger = logging.getLogger(__name__)

MAX_WAITING = 50
IDLE_S = 600.0

Event = Any
Work = Callable[[Resident, Callable[[], bool]], Iterator[Event]]
"""Work in pieces: given the loaded base and a question whether it was cancelled, it yields events; None is none."""


class Ticket:
    """A batch that was handed in: its events as they come, and the way to end it.

    Made inside a running event loop.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the batch within a step; one that still waits never starts."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether the batch was cancelled."""
        return self._cancelled.is_set()

    def put(self, event: Event | BaseException | None) -> None:
        """Hands an event over from the runner's thread; an error or None is the last."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            # The loop is closed: the role is ending, and nobody listens any more.
            self.cancel()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of the batch; leaving early cancels it.

        Raises:
            Exception: What ended the batch.
        """
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.cancel()


class Runner:
    """The thread of one base model.

    Args:
        name: Name of the base, for the log.
        load: Loads it, in the runner's thread.
        idle_s: Without work for so long, the base is unloaded.
        max_waiting: Batches that may wait for their turn.
    """

    def __init__(
        self, name: str, load: Callable[[], Resident], *, idle_s: float = IDLE_S, max_waiting: int = MAX_WAITING
    ) -> None:
        self.name = name
        self._load = load
        self._idle_s = idle_s
        self._waiting: queue.Queue[Ticket | None] = queue.Queue(max_waiting)
        self._resident: Resident | None = None
        self._is_working = False
        threading.Thread(target=self._serve, name=f"runner-{name}", daemon=True).start()

    @property
    def is_loaded(self) -> bool:
        """Whether the base is in memory."""
        return self._resident is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._is_working and self._waiting.empty()

    def submit(self, work: Work) -> Ticket:
        """Hands a batch in.

        Raises:
            BusyError: Too many are waiting already.
        """
        ticket = Ticket(work)
        try:
            self._waiting.put_nowait(ticket)
        except queue.Full:
            raise BusyError(
                f"{self._waiting.maxsize} requests already wait for {self.name!r}. Try again in a few seconds."
            ) from None
        return ticket

    def unload(self) -> None:
        """Asks the thread to let the base go once the work before is done; does nothing where work is waiting."""
        if self._waiting.empty():
            self._waiting.put_nowait(None)

    def _serve(self) -> None:
        while True:
            try:
                ticket = self._waiting.get(timeout=self._idle_s if self.is_loaded else None)
            except queue.Empty:
                ticket = None
            if ticket is None:
                self._let_go()
            elif not ticket.is_cancelled():
                self._is_working = True
                self._run(ticket)
                self._is_working = False

    def _run(self, ticket: Ticket) -> None:
        try:
            if self._resident is None:
                self._resident = self._load()
            for event in ticket.work(self._resident, ticket.is_cancelled):
                if event is not None:
                    ticket.put(event)
                if ticket.is_cancelled():
                    break
            ticket.put(None)
        except torch.OutOfMemoryError:
            self._let_go()
            ticket.put(
                BusyError(
                    f"There is too little free memory to run {self.name!r} now. Try again, or with fewer columns."
                )
            )
        except Exception as error:  # told to the caller, who decides what a reader may see of it
            ticket.put(error)

    def _let_go(self) -> None:
        if self._resident is None:
            return
        self._resident = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.info("the base model %r was unloaded", self.name)
