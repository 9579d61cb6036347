"""The dispatcher role: claims queued jobs, starts trainers for them, notices those that died, runs downloads.

`python -m worker.dispatcher`. It knows no torch, keeps nothing in memory that the database does not hold, and may be
started again at any moment.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.children import end_with_parent
from storage.database import Database, open_database
from storage.disk import DiskFullError, lack_of_room, refusing_full_disk
from storage.errors import BusyError, NotFoundError, StudioError
from storage.lease import Lease, LeaseLostError
from storage.lease_watch import LeaseWatch, is_abandoned
from storage.logs import set_up_logging
from storage.queue import claim_next, startable_jobs
from storage.settings import Settings, read_settings
from storage.sweep import Sweeper
from worker.devices import MachineMemory, find_devices
from worker.downloader import Downloader
from worker.executor import Ended, Executor, LocalExecutor
from worker.room import Room
from worker.training.assignment import Assignment
from worker.workload import MAX_JOBS, company, look_at

logger = logging.getLogger(__name__)

TICK_S = 0.2
BEAT_S = 2.0
WATCH_S = 2.0
SWEEP_S = 600.0
STOP_TIMEOUT_S = 15.0
PAUSE_AFTER_FAULT_S = 2.0
FREE_AFTER_S = 1.0
BUSY = (
    "The database is in use by another process, so nothing can be written at the moment. "
    "What happens meanwhile is written down as soon as it is free."
)


class Dispatcher:
    """One round after the other until it is asked to stop.

    Args:
        settings: Where the heartbeat file goes, and how long a lease lasts.
        database: The open database.
        executor: Where trainers run.
        downloader: Fetches base models.
        room: Makes room for trainings; None starts them without a look at the memory.
        clock: Seconds that never go back; whether a trainer still answers is judged by them, not by the time of day.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        executor: Executor,
        downloader: Downloader,
        room: Room | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.database = database
        self.executor = executor
        self.downloader = downloader
        self.room = room
        self.holder = f"{socket.gethostname()[:60]}:{os.getpid()}"
        self._running: list[Assignment] = []
        self._together: dict[Assignment, list[Assignment]] = {}
        self._unaccounted: list[Ended] = []
        self._store = ArtifactStore(settings)
        self._clock = clock
        self._watch = LeaseWatch(settings.lease_s, clock, self._is_gone)
        self._fault: str | None = None
        self._waits: dict[str, str] = {}
        self._beat_at: float | None = None
        self._watch_at: float | None = None
        self._sweeper = Sweeper(kept_checkpoints=settings.kept_checkpoints, clock=clock)
        self._sweep_at: float | None = None

    def run(self, asked_to_stop: threading.Event) -> None:
        """Works until the event is set; then trainers checkpoint, and what they leave goes back to the queue."""
        while not asked_to_stop.wait(TICK_S):
            try:
                self.tick()
                self._fault = None
            except StudioError as error:
                logger.warning("a round was broken off: %s", error.message)
                self._fault = error.message
                asked_to_stop.wait(PAUSE_AFTER_FAULT_S)
            except Exception:
                logger.exception("a round was broken off")
                asked_to_stop.wait(PAUSE_AFTER_FAULT_S)
        self.shut_down()

    def tick(self) -> None:
        """One round."""
        self._beat()
        self._account_for_ended()
        # On a full disk nobody can renew a lease, and a trainer that starts would die of it.
        if lack_of_room(self.settings) is None:
            self._take_back_silent()
            while self.executor.free_slots() > 0 and self._start_next():
                continue
        self.executor.keep_warm()
        self.downloader.tick()
        self._sweep()

    def shut_down(self) -> None:
        """Ends every child; a job whose trainer did not give it back itself returns to the queue."""
        self.downloader.stop()
        self.executor.stop(STOP_TIMEOUT_S)
        for assignment in self._running:
            try:
                with self.database.write() as session:
                    Lease(assignment.job_id, assignment.attempt).release(session)
            except LeaseLostError:
                continue
            except StudioError as error:
                logger.warning("job %s is left to its lease: %s", assignment.job_id, error.message)
        heartbeat_file(self.settings).unlink(missing_ok=True)

    def _start_next(self) -> bool:
        """Starts a trainer for the first job of the queue, and for its neighbours where they do better in one pass."""
        num_free, device = self.executor.free_slots(), self.executor.next_device()
        # Looking first spares the lock that every writer takes; each claim itself is one statement.
        with self.database.read() as session:
            jobs = startable_jobs(session, limit=num_free * MAX_JOBS)
            works = [look_at(session, job, device) for job in jobs]
        if not jobs:
            self._tell_of_waits({})
            return False
        if self.room and not self.room.is_there(jobs[0].id, device, works[0].needed_bytes):
            self._tell_of_waits(self.room.waits)
            return False
        self._tell_of_waits({})
        wanted = [job.id for job in jobs[: company(works, num_free, device)]]
        leases = self._claim(wanted)
        if not leases:
            return False
        assignments = [Assignment(lease.job_id, lease.attempt) for lease in leases]
        logger.info("these jobs start as one trainer: %s", ", ".join(map(str, assignments)))
        self._running += assignments
        self._together.update(dict.fromkeys(assignments, assignments))
        self.executor.start(assignments)
        return True

    def _tell_of_waits(self, waits: dict[str, str]) -> None:
        """Lets the next heartbeat come at once where it has something new to say of jobs that wait."""
        if waits != self._waits:
            self._waits, self._beat_at = dict(waits), None

    def _claim(self, wanted: Sequence[str]) -> list[Lease]:
        """Claims jobs one after another for as long as each of them is the first in the queue."""
        leases: list[Lease] = []
        with self.database.write() as session:
            for job_id in wanted:
                lease = claim_next(session, self.holder, only=job_id)
                if lease is None:
                    break
                leases.append(lease)
        return leases

    def _account_for_ended(self) -> None:
        """Says of each trainer that ended how it did; one that cannot be written down now waits for the next round."""
        self._unaccounted += self.executor.ended()
        for _ in range(len(self._unaccounted)):
            ended = self._unaccounted.pop(0)
            self._running.remove(ended.assignment)
            self._together.pop(ended.assignment, None)
            try:
                self._account_for(ended)
            except (BusyError, DiskFullError) as error:
                logger.warning("the end of job %s is not written down yet: %s", ended.assignment.job_id, error.message)
                self._unaccounted.append(ended)
                self._running.append(ended.assignment)

    def _account_for(self, ended: Ended) -> None:
        job_id, attempt = ended.assignment.job_id, ended.assignment.attempt
        try:
            with self.database.write() as session:
                status = Lease(job_id, attempt).lose(session, _reason(ended.exit_code))
        except (LeaseLostError, NotFoundError):
            return  # it ended its job itself, as it should; its user may have deleted the job since
        logger.warning("the trainer of job %s died (code %d); the job is %s", job_id, ended.exit_code, status)

    def _take_back_silent(self) -> None:
        """Takes jobs from trainers that stopped answering, and ends those: a process that hangs would keep its slot."""
        if self._is_due(self._watch_at, WATCH_S):
            self._watch_at = self._clock()
            # Ended first: one that hangs with the database's lock in hand would let nobody write its end.
            for lease in self._watch.look(self.database):
                self._kill(Assignment(lease.job_id, lease.attempt))
            for lease, status in self._watch.take_back(self.database):
                logger.warning("the lease of job %s ran out; the job is %s", lease.job_id, status)

    def _kill(self, assignment: Assignment) -> None:
        """Ends the trainer of an attempt, unless other jobs of it still answer: those need their process."""
        answering = {Assignment(lease.job_id, lease.attempt) for lease in self._watch.answering()}
        if not answering.intersection(self._together.get(assignment, ())):
            self.executor.kill(assignment)

    def _sweep(self) -> None:
        """Looks for files that no row names; those that it has found so for an hour go."""
        if self._is_due(self._sweep_at, SWEEP_S):
            self._sweep_at = self._clock()
            self._sweeper.look(self.database, self._store)

    def _beat(self) -> None:
        if not self._is_due(self._beat_at, BEAT_S):
            return
        self._beat_at = self._clock()
        fault = self._fault if self.database.is_free(FREE_AFTER_S) else BUSY
        path = heartbeat_file(self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        running = [str(assignment) for assignment in self._running]
        state = {"pid": os.getpid(), "at": time.time(), "running": running, "waits": self._waits}
        if fault is not None:
            state["fault"] = fault
        temporary = path.with_suffix(".tmp")
        # Without room the page sees by itself why nothing starts.
        with contextlib.suppress(DiskFullError), refusing_full_disk("writing a heartbeat"):
            temporary.write_text(json.dumps(state))
            temporary.replace(path)

    def _is_gone(self, lease: Lease) -> bool:
        """Whether an attempt of an earlier dispatcher has no process left; its own tell of their end themselves."""
        if Assignment(lease.job_id, lease.attempt) in self._running:
            return False
        folders = self._store.run_folders(lease.job_id)
        return any(is_abandoned(folder) for folder in folders if folder.name == str(lease.attempt))

    def _is_due(self, last_at: float | None, every_s: float) -> bool:
        return last_at is None or self._clock() - last_at >= every_s


def heartbeat_file(settings: Settings) -> Path:
    """Where the dispatcher says that it is alive."""
    return settings.home / "run" / "dispatcher.json"


def _reason(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed, as a machine does when its memory runs out"
    if exit_code < 0:
        return f"its process was ended by signal {-exit_code}"
    return f"its process ended with exit code {exit_code}"


def main() -> int:
    """Runs the role until a signal comes; returns the exit code."""
    set_up_logging("dispatcher")
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    end_with_parent()
    try:
        settings = read_settings()
        database = open_database(settings)
    except StudioError as error:
        print(error.message, file=sys.stderr)
        return 2
    executor = LocalExecutor(settings.home / "run" / "trainer.log", find_devices())
    room = Room(settings, MachineMemory())
    Dispatcher(settings, database, executor, Downloader(database), room).run(asked_to_stop)
    database.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
