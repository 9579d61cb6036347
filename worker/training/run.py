"""One attempt of a job from its assignment to its end, whatever that end is."""

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.disk import DiskFullError
from storage.errors import BusyError, StudioError
from storage.jobs import get_job
from storage.queue import Lease, LeaseLostError
from storage.schema.job import JobKind, StopRequest
from storage.settings import Settings
from worker.answering.attempt import AnsweringAttempt
from worker.engine.device_memory import is_out_of_memory
from worker.engine.errors import EngineError
from worker.training.assignment import Assignment
from worker.training.attempt import Attempt, Outcome
from worker.training.heartbeat import Heartbeat
from worker.training.recorder import Recorder

logger = logging.getLogger(__name__)

END_ATTEMPTS = 12
PAUSE_S = 2.0
UNEXPECTED = "The training ended with an error that was not foreseen. Its log holds the details; try it again."
OUT_OF_MEMORY = (
    "The machine ran out of memory. Lower the rows per step or the prefix's length, or pick a smaller base model."
)


@dataclass(frozen=True)
class Workplace:
    """What a trainer works with.

    Attributes:
        settings: What the process was told from outside.
        database: The open database.
        store: Keeps checkpoints, logs and prefixes.
        terminated: Set once the process is asked to end.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    terminated: threading.Event


def run_attempt(workplace: Workplace, assignment: Assignment) -> None:
    """Runs one attempt; the job's row says how it ended, and no error leaves this function."""
    lease = Lease(assignment.job_id, assignment.attempt)
    recorder = Recorder(workplace.database, lease)
    with Heartbeat(workplace.database, lease, workplace.settings.lease_s) as heartbeat:
        wish = _wish_of(workplace, heartbeat)
        tools = (workplace.settings, workplace.database, workplace.store, lease, recorder, wish)
        attempt = Attempt(*tools)
        try:
            is_answering = _kind_of(workplace, lease) is JobKind.ANSWERING
            _end(workplace, recorder, attempt, AnsweringAttempt(*tools).run() if is_answering else attempt.run())
        except LeaseLostError as error:
            logger.warning("%s", error.message)
        except (StudioError, EngineError) as error:
            _fail(workplace, recorder, lease, error.code, error.message)
        except Exception as error:
            # Loading and measuring take memory too, and unlike an update they do not try again with less.
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                _fail(workplace, recorder, lease, "out_of_memory", OUT_OF_MEMORY)
            else:
                _fail(workplace, recorder, lease, "unexpected", UNEXPECTED)


def _kind_of(workplace: Workplace, lease: Lease) -> JobKind:
    with workplace.database.read() as session:
        return get_job(session, lease.job_id).kind


def _wish_of(workplace: Workplace, heartbeat: Heartbeat) -> Callable[[], Outcome | None]:
    def wish() -> Outcome | None:
        if heartbeat.is_lost:
            raise LeaseLostError("Another attempt owns the job, so this one ends.")
        if heartbeat.asked == StopRequest.DISCARD:
            return Outcome.DISCARDED
        if workplace.terminated.is_set():
            return Outcome.RELEASED
        return {StopRequest.PAUSE: Outcome.PAUSED, StopRequest.KEEP: Outcome.PUBLISHED, None: None}[heartbeat.asked]

    return wish


def _end(workplace: Workplace, recorder: Recorder, attempt: Attempt, outcome: Outcome) -> None:
    """Writes the end of an attempt into the job's row, unless its publication did so already."""
    logger.info("the attempt ends: %s", outcome.name.lower())
    lease = recorder.lease
    if outcome is not Outcome.PUBLISHED:
        recorder.flush()
    if outcome is Outcome.RELEASED:
        _persist(workplace, lease.release)
    elif outcome is Outcome.PAUSED:
        _persist(workplace, lambda session: lease.release(session, paused=True))
    elif outcome is Outcome.DISCARDED:
        _persist(workplace, lease.cancel)
    if outcome in (Outcome.DISCARDED, Outcome.PUBLISHED):
        attempt.checkpoints.delete_all()


def _fail(workplace: Workplace, recorder: Recorder, lease: Lease, code: str, message: str) -> None:
    """Ends the job with a sentence; the traceback goes to its log and to the file of this process."""
    logger.exception("the job failed: %s", message)
    try:
        recorder.add("log", {"message": traceback.format_exc().strip(), "level": "error"})
        recorder.flush()
        _persist(workplace, lambda session: lease.fail(session, {"code": code, "message": message}))
    except LeaseLostError as error:
        logger.warning("%s", error.message)


def _persist(workplace: Workplace, write: Callable[[Any], object]) -> None:
    """Writes an end, again and again while there is no lock or no room: a lease should not have to run out for it."""
    for attempt in range(1, END_ATTEMPTS + 1):
        try:
            with workplace.database.write() as session:
                write(session)
            return
        except (BusyError, DiskFullError):
            if attempt == END_ATTEMPTS:
                raise
            time.sleep(PAUSE_S)
