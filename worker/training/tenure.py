"""The time in which this process holds a job: its lease kept alive, its user's wishes heard, its end written down."""

import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from storage.disk import DiskFullError
from storage.errors import BusyError, StudioError
from storage.lease import DiscardedError, Lease, LeaseLostError
from storage.logs import log_job
from storage.schema.job import StopRequest
from worker.engine.device_memory import is_out_of_memory
from worker.engine.errors import EngineError
from worker.training.assignment import Assignment
from worker.training.attempt import Attempt
from worker.training.checkpoints import Checkpoints
from worker.training.heartbeat import Heartbeat
from worker.training.mandate import Mandate, Outcome
from worker.training.recorder import Recorder
from worker.training.workplace import Workplace

logger = logging.getLogger(__name__)

END_ATTEMPTS = 12
PAUSE_S = 2.0
UNEXPECTED = "The job ended with an error that was not foreseen. Its log holds the details; try it again."
OUT_OF_MEMORY = (
    "The machine ran out of memory. Lower the rows per step or the prefix's length, or pick a smaller base model."
)


class Tenure:
    """One attempt of a job in this process; use it in a `with` block.

    Whatever ends the attempt is written into the job's row, and neither that nor an error of it reaches other jobs of
    the same process.

    Args:
        workplace: What the trainer works with.
        assignment: The attempt.

    Attributes:
        mandate: What its work is done with.
        attempt: What it does, where it is a training.
        is_over: Whether it has ended, in whichever way.
        beside: Called whenever the attempt looks for wishes, so that others are heard while this one is busy.
    """

    def __init__(self, workplace: Workplace, assignment: Assignment) -> None:
        self.assignment = assignment
        self.recorder = Recorder(workplace.database, Lease(assignment.job_id, assignment.attempt))
        self.is_over = False
        self.beside: Callable[[], None] = lambda: None
        self._workplace = workplace
        self._lease = self.recorder.lease
        self._heartbeat = Heartbeat(workplace.database, self._lease, workplace.settings.lease_s)
        self.mandate = Mandate(workplace.settings, workplace.database, workplace.store, self.recorder, self.wish)
        self.attempt = Attempt(self.mandate)

    def __enter__(self) -> "Tenure":
        """Starts to renew the lease."""
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *fault: object) -> None:
        """Ends the renewals."""
        self._heartbeat.__exit__()

    def go_on(self, act: Callable[[], Outcome | None]) -> None:
        """Does a part of the attempt; an outcome or an error ends it, and no error leaves this function."""
        if self.is_over:
            return
        with log_job(self.assignment.job_id):
            try:
                outcome = _unless_discarded(act)
                if outcome is None or self.is_over:
                    return
                self._end(outcome)
            except LeaseLostError as error:
                logger.warning("%s", error.message)
            except (StudioError, EngineError) as error:
                self._fail(error.code, error.message)
            except Exception as error:
                # Loading and measuring take memory too, and unlike an update they do not try again with less.
                if isinstance(error, MemoryError) or is_out_of_memory(error):
                    self._fail("out_of_memory", OUT_OF_MEMORY)
                else:
                    self._fail("unexpected", UNEXPECTED)
        self.is_over = True

    def wish(self) -> Outcome | None:
        """What the user of the job or the machine asks for.

        Raises:
            LeaseLostError: Another attempt owns the job.
        """
        self.beside()
        if self._heartbeat.is_lost:
            raise LeaseLostError("Another attempt owns the job, so this one ends.")
        if self.is_unwanted():
            return Outcome.DISCARDED
        if self._workplace.terminated.is_set():
            return Outcome.RELEASED
        wishes = {StopRequest.PAUSE: Outcome.PAUSED, StopRequest.KEEP: Outcome.PUBLISHED, None: None}
        return wishes[self._heartbeat.asked]

    def is_unwanted(self) -> bool:
        """Whether the user has discarded the job, for which nothing needs to be computed."""
        return self._heartbeat.asked == StopRequest.DISCARD

    def _end(self, outcome: Outcome) -> None:
        """Writes the end of the attempt into the job's row, unless its publication did so already."""
        logger.info("the attempt ends: %s", outcome.name.lower())
        if outcome is not Outcome.PUBLISHED:
            self.recorder.flush()
        if outcome is Outcome.RELEASED:
            self._persist(self._lease.release)
        elif outcome is Outcome.PAUSED:
            self._persist(lambda session: self._lease.release(session, paused=True))
        elif outcome is Outcome.DISCARDED:
            self._persist(self._lease.cancel)
        if outcome in (Outcome.DISCARDED, Outcome.PUBLISHED):
            place = self._workplace
            Checkpoints(place.database, place.store, self._lease).clear(place.settings.kept_checkpoints)

    def _fail(self, code: str, message: str) -> None:
        """Ends the job with a sentence; the traceback goes to its log and to the file of this process."""
        logger.exception("the job failed: %s", message)
        try:
            self.recorder.add("log", {"message": traceback.format_exc().strip(), "level": "error"})
            self.recorder.flush()
            self._persist(lambda session: self._lease.fail(session, {"code": code, "message": message}))
        except LeaseLostError as error:
            logger.warning("%s", error.message)

    def _persist(self, write: Callable[[Any], object]) -> None:
        """Writes an end with what is still to be told, again and again while there is no lock or no room."""
        for attempt in range(1, END_ATTEMPTS + 1):
            try:
                with self._workplace.database.write() as session:
                    self.recorder.write(session)
                    write(session)
                return
            except (BusyError, DiskFullError):
                if attempt == END_ATTEMPTS:
                    raise
                time.sleep(PAUSE_S)


def _unless_discarded(act: Callable[[], Outcome | None]) -> Outcome | None:
    """What a part of the attempt comes to, also where its user was quicker than its publication."""
    try:
        return act()
    except DiscardedError:
        return Outcome.DISCARDED
