"""Which attempts have fallen silent, judged by the clock of the process that watches them."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.database import Database
from storage.lease import Lease
from storage.schema.job import Job, JobStatus

REASON = "its process stopped answering"
GONE = "its process is gone, as after a restart of the machine"
HOLD_NAME = "held"
LOOKS_PER_LEASE = 4
"""The fewest looks in a row that must find an attempt silent before it is lost."""


@dataclass
class _Silence:
    """How long one attempt has shown the same count of renewals, as far as was watched."""

    renewals: int
    seconds: float = 0.0
    is_gone: bool = False


class LeaseWatch:
    """Takes jobs from attempts whose process stopped answering.

    An attempt counts `renewals` up in its row. It is lost once this watch itself has seen no change for `lease_s`: no
    moment of a wall clock is compared, so a clock that is set an hour or a day away changes nothing. A process that
    starts anew starts a new watch, and gives every attempt the whole lease again.

    Args:
        lease_s: Seconds of silence after which an attempt is lost.
        clock: Seconds that run while this machine does. `time.monotonic` rests while it sleeps on Linux
            (CLOCK_MONOTONIC) and macOS (mach_absolute_time), as the trainers do.
        is_gone: Whether the process of an attempt is known to be no more; such a job is taken without waiting.
    """

    def __init__(
        self,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
        is_gone: Callable[[Lease], bool] = lambda lease: False,
    ) -> None:
        self._is_gone = is_gone
        self._lease_s = lease_s
        self._clock = clock
        self._looked_at = clock()
        self._silences: dict[Lease, _Silence] = {}

    def look(self, database: Database) -> list[Lease]:
        """Looks once at every running attempt; it only reads, so it works while another process holds the lock.

        Returns:
            The attempts that were silent for too long.
        """
        moment = self._clock()
        # A watch that was stopped itself, or that runs on a clock that counts sleep, saw nothing meanwhile: one look
        # adds a part of a lease at most, and trainers that were stopped with it get the time to answer.
        passed = min(moment - self._looked_at, self._lease_s / LOOKS_PER_LEASE)
        self._looked_at = moment
        running = select(Job.id, Job.attempt, Job.renewals).where(Job.status == JobStatus.RUNNING)
        with database.read() as session:
            found = session.execute(running.order_by(Job.priority.desc(), Job.position)).all()
        before, self._silences = self._silences, {}
        for job_id, attempt, renewals in found:
            lease = Lease(job_id, attempt)
            silence = before.get(lease)
            if silence is None or silence.renewals != renewals:
                silence = _Silence(renewals)
            else:
                silence.seconds += passed
            silence.is_gone = self._is_gone(lease)
            self._silences[lease] = silence
        return self._silent()

    def take_back(self, database: Database) -> list[tuple[Lease, JobStatus]]:
        """Takes the jobs of the attempts that the last look found silent, unless they were heard of since.

        Returns:
            The attempts that lost their jobs, and the states that those are in now.

        Raises:
            BusyError: The database was in use for too long; nothing is forgotten, and the next call tries again.
        """
        silent = self._silent()
        if not silent:
            return []
        with database.write() as session:
            return [
                (lease, lease.lose(session, GONE if self._silences[lease].is_gone else REASON))
                for lease in silent
                if _is_still_silent(session, lease, self._silences[lease].renewals)
            ]

    def answering(self) -> list[Lease]:
        """The attempts that the last look did not find silent."""
        silent = set(self._silent())
        return [lease for lease in self._silences if lease not in silent]

    def _silent(self) -> list[Lease]:
        return [
            lease for lease, silence in self._silences.items() if silence.is_gone or silence.seconds >= self._lease_s
        ]


def hold(folder: Path) -> None:
    """Shows for as long as this process lives that an attempt has one; the system takes the sign away, however it ends.

    Args:
        folder: The run folder of the attempt.
    """
    path = folder / f".{HOLD_NAME}.{os.getpid()}"
    # Where a disk takes no file or no lock, the lease alone says that the process is alive.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Locked before it has its name: nobody finds it between the two. It stays open until the process ends.
        path.replace(folder / HOLD_NAME)


def is_abandoned(folder: Path) -> bool:
    """Whether the process that held a run folder is gone; not where none has held it yet, or no lock can be had."""
    try:
        descriptor = os.open(folder / HOLD_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_still_silent(session: Session, lease: Lease, renewals: int) -> bool:
    """Whether the attempt has neither renewed its lease nor ended since it was looked at; nobody else writes now."""
    job = session.get(Job, lease.job_id)
    return job is not None and (job.status, job.attempt, job.renewals) == (JobStatus.RUNNING, lease.attempt, renewals)
