"""Writes what a training tells into the database: gathered for a moment, then in one transaction."""

import logging
import time
from typing import Any

from storage.database import Database, Session
from storage.disk import DiskFullError
from storage.errors import BusyError
from storage.lease import Lease, NewEvent, Progress

logger = logging.getLogger(__name__)

FLUSH_S = 0.4
"""A page shows at most two or three updates a second, and each write waits for the disk."""

MAX_FLUSH_S = 2.0
MAX_TIME_SHARE = 0.01
"""Of the time of a training, that these writes may take: the slower one is, the longer the next waits, up to two
seconds."""

MAX_PENDING = 10_000


class Recorder:
    """Gathers events and progress of one attempt.

    Args:
        database: The open database.
        lease: The attempt; a write after it has ended raises `LeaseLostError`.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self.lease = lease
        self._events: list[NewEvent] = []
        self._progress: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._flushed_at = 0.0
        self._pause_s = FLUSH_S

    def add(self, kind: str, data: dict[str, Any], step: int | None = None) -> None:
        """Notes an event; see `NewEvent`."""
        self._events.append(NewEvent(kind, data, step))
        self._flush_when_due()

    def log(self, message: str, *, level: str = "info") -> None:
        """Notes a line of the job's log."""
        self.add("log", {"message": message, "level": level})

    def stage(self, words: str) -> None:
        """Says what is being done, at once."""
        self._progress["stage"] = words
        self.flush()

    def progress(self, *, metrics: dict[str, Any] | None = None, **fields: Any) -> None:
        """Brings step, max_steps, eta_s and metrics up to date; see `Progress`."""
        self._progress.update(fields)
        self._metrics.update(metrics or {})
        self._flush_when_due()

    def flush(self) -> None:
        """Writes what was gathered; where the database is busy or the disk full it stays gathered until the next time.

        Raises:
            LeaseLostError: Another attempt owns the job.
        """
        began = self._flushed_at = time.monotonic()
        if not (self._events or self._progress or self._metrics):
            return
        try:
            with self._database.write() as session:
                self.write(session)
            self._flushed_at = time.monotonic()
            self._pause_s = min(max(FLUSH_S, (self._flushed_at - began) / MAX_TIME_SHARE), MAX_FLUSH_S)
        except (BusyError, DiskFullError) as error:
            if len(self._events) > MAX_PENDING:
                raise
            logger.warning("progress is kept back: %s", error.message)
            return
        self._events, self._progress, self._metrics = [], {}, {}

    def write(self, session: Session) -> None:
        """Writes what is still gathered, beside what else its caller writes; it stays gathered, as they may all fail.

        The transaction that ends an attempt does this, since nothing can be written after it.

        Args:
            session: A writing session.

        Raises:
            LeaseLostError: Another attempt owns the job.
        """
        if self._events or self._progress or self._metrics:
            progress = Progress(**self._progress, metrics=dict(self._metrics) or None)
            self.lease.record(session, self._events, progress)

    def _flush_when_due(self) -> None:
        if time.monotonic() - self._flushed_at >= self._pause_s:
            self.flush()
