"""A request that was handed in: its events as they come, and the way to end it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from worker.inference.batch import Batch
from worker.inference.resident import Resident

ANONYMOUS = ""
"""The client of a request that names none."""

Event = Any
Work = Callable[[Resident, Callable[[], bool]], Iterator[Event]]
"""Work in pieces: given the loaded base and a question whether it was cancelled, it yields events; None is none."""


class Ticket:
    """One request on its way. Made inside a running event loop.

    Args:
        task: Rows to be answered, or work in pieces.
        client: Who asks.
    """

    def __init__(self, task: Work | Batch, client: str = ANONYMOUS) -> None:
        self.task = task
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the request within a step; one that still waits never starts."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether the request was cancelled."""
        return self._cancelled.is_set()

    def put(self, *events: Event | BaseException | None) -> None:
        """Hands events over from the runner's thread; an error or None is the last."""
        try:
            self._loop.call_soon_threadsafe(self._put_all, events)
        except RuntimeError:
            # The loop is closed: the role is ending, and nobody listens any more.
            self.cancel()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of the request; leaving early cancels it.

        Raises:
            Exception: What ended the request.
        """
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.cancel()

    def _put_all(self, events: Sequence[Event | BaseException | None]) -> None:
        for event in events:
            self._events.put_nowait(event)
