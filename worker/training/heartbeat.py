"""Keeps a job's lease alive in a thread of its own, and hears what its user asks for."""

import logging
import threading
import time

from storage.database import Database
from storage.errors import NotFoundError, StudioError
from storage.jobs import get_job
from storage.lease import Lease, LeaseLostError
from storage.logs import log_job
from storage.schema.job import JobStatus, StopRequest

logger = logging.getLogger(__name__)

LOOK_S = 0.3
RENEWALS_PER_LEASE = 4


class Heartbeat:
    """Renews the lease while the training computes, even where a single step takes minutes.

    Args:
        database: The open database.
        lease: The attempt that this process runs.
        lease_s: How long a lease lasts without renewal.

    Attributes:
        asked: What the user has asked for, read between steps; None where that is nothing.
        is_lost: Whether another attempt owns the job, so that this one must write nothing more.
    """

    def __init__(self, database: Database, lease: Lease, lease_s: float) -> None:
        self.asked: StopRequest | None = None
        self.is_lost = False
        self._database = database
        self._lease = lease
        self._lease_s = lease_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with log_job(self._lease.job_id):
            renewed_at = time.monotonic()
            while not self._over.wait(LOOK_S):
                try:
                    if time.monotonic() - renewed_at > self._lease_s / RENEWALS_PER_LEASE:
                        with self._database.write() as session:
                            self._lease.renew(session)
                        renewed_at = time.monotonic()
                    self._look()
                except (LeaseLostError, NotFoundError):
                    self.is_lost = True
                    return
                except StudioError as error:
                    # A busy database passes; the lease outlives several missed looks.
                    logger.warning("the heartbeat missed: %s", error.message)

    def _look(self) -> None:
        with self._database.read() as session:
            job = get_job(session, self._lease.job_id)
        if job.attempt != self._lease.attempt or job.status != JobStatus.RUNNING:
            self.is_lost = not self._over.is_set()
        self.asked = job.stop_request
