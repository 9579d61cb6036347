"""Runs trainers: one process for each job, or for several that share a pass, on a slot of this machine; one more is
kept warm for the next."""

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.children import spawn, stop
from worker.devices import count_cpus
from worker.training.assignment import Assignment

logger = logging.getLogger(__name__)

TRAINER = (sys.executable, "-m", "worker.trainer")
WARM_RETRY_S = 10.0
SPARE_AFTER_S = 20.0
"""How long a trainer works before the next one gets ready behind it: a short job should not share its cores."""

MAX_LOG_BYTES = 1_000_000

SPIN_COUNT = "1000"
"""On two cores with a load of eight, a training step took 0.3 s with it, and 2.5 to 7 s with OpenMP's own choice."""


@dataclass(frozen=True)
class Ended:
    """An attempt whose trainer is no more.

    Attributes:
        assignment: What it was told to do.
        exit_code: Negative where a signal ended it.
    """

    assignment: Assignment
    exit_code: int


class Executor(Protocol):
    """Where trainers run: the seam for other backends, which run the same command (`TRAINER`) in another place.

    The dispatcher calls all of it from one thread, again and again, so no call may wait for a trainer. The jobs' rows
    say how jobs end; an executor only says that a process is gone. A backend that forgets its processes (a cluster
    whose head starts anew) may leave `ended` empty: the leases of their jobs then run out.
    """

    def free_slots(self) -> int:
        """How many more trainers may start now."""

    def next_device(self) -> str | None:
        """The GPU of this machine that the next trainer gets, as CUDA names it; None where that is none of them."""

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Starts one trainer for all of the assignments, on a free slot."""

    def ended(self) -> list[Ended]:
        """The attempts whose trainers ended since this was last asked, each of them once."""

    def kill(self, assignment: Assignment) -> None:
        """Ends a trainer that no longer answers, at once; nothing happens where it does not run here."""

    def keep_warm(self) -> None:
        """Gets free slots ready, so that the next job starts without the time that imports take."""

    def stop(self, timeout_s: float) -> None:
        """Ends all trainers: each writes a checkpoint first, if it can do so in time."""


@dataclass(frozen=True)
class _Busy:
    """A trainer with work."""

    assignments: tuple[Assignment, ...]
    child: subprocess.Popen[bytes]
    since: float


class LocalExecutor:
    """Trainers as child processes of this one.

    A warm trainer has done its imports and waits on stdin for the line that names its job.

    Args:
        log_path: File for what trainers print before they know their job; from then on each writes to its run's folder.
        devices: One slot for each; a name for CUDA_VISIBLE_DEVICES, or None for whatever there is.
        command: The trainer's command.
    """

    def __init__(
        self, log_path: Path, devices: Sequence[str | None] = (None,), command: Sequence[str] = TRAINER
    ) -> None:
        self._log_path = log_path
        self._devices = list(devices)
        self._command = list(command)
        self._warm: dict[str | None, subprocess.Popen[bytes]] = {}
        self._warmed_at: dict[str | None, float] = {}
        self._busy: dict[str | None, _Busy] = {}

    def free_slots(self) -> int:
        """How many devices have no trainer with a job."""
        return len(self._devices) - len(self._busy)

    def next_device(self) -> str | None:
        """The first device without a job."""
        return next(device for device in self._devices if device not in self._busy)

    def start(self, assignments: Sequence[Assignment]) -> None:
        """Gives the assignments to a warm trainer, or to a new one where none is left."""
        device = self.next_device()
        child = self._warm.pop(device, None)
        if child is None or not _tell(child, assignments):
            words = [str(assignment) for assignment in assignments]
            child = self._spawn(device, ["--assign", *words], stdin=subprocess.DEVNULL)
        self._busy[device] = _Busy(tuple(assignments), child, time.monotonic())

    def ended(self) -> list[Ended]:
        """The attempts whose trainers ended since this was last asked."""
        over = [(device, busy) for device, busy in self._busy.items() if busy.child.poll() is not None]
        for device, _ in over:
            del self._busy[device]
        return [Ended(each, busy.child.returncode) for _, busy in over for each in busy.assignments]

    def kill(self, assignment: Assignment) -> None:
        """Kills the trainer with that assignment and whatever it started; `ended` tells of it as of any other."""
        for busy in self._busy.values():
            if assignment in busy.assignments:
                stop([busy.child], timeout_s=0.0)

    def keep_warm(self) -> None:
        """Starts a waiting trainer on each device that has none, behind one that works only after a while."""
        now = time.monotonic()
        for device in self._devices:
            waiting = self._warm.get(device)
            is_waiting = waiting is not None and waiting.poll() is None
            if is_waiting or (device in self._busy and now - self._busy[device].since < SPARE_AFTER_S):
                continue
            # One that dies at once (a broken install) is not tried again and again without a pause.
            if waiting is None or now - self._warmed_at[device] >= WARM_RETRY_S:
                if waiting is not None:
                    _hang_up(waiting)
                self._warm[device] = self._spawn(device, [], stdin=subprocess.PIPE)
                self._warmed_at[device] = now

    def stop(self, timeout_s: float) -> None:
        """Ends all trainers, the waiting ones too."""
        stop([*self._warm.values(), *(busy.child for busy in self._busy.values())], timeout_s=timeout_s)
        for child in self._warm.values():
            _hang_up(child)
        self._warm.clear()

    def _spawn(self, device: str | None, arguments: list[str], stdin: int) -> subprocess.Popen[bytes]:
        if self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES:
            self._log_path.unlink()
        environment = trainer_environment(len(self._devices))
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        command = [*self._command, *arguments]
        with self._log_path.open("ab") as log:
            return spawn(command, environment=environment, stdin=stdin, stdout=log, stderr=log)


def trainer_environment(num_trainers: int) -> dict[str, str]:
    """What a trainer's process is told beside the environment of its parent.

    Args:
        num_trainers: How many may work at once on this machine.
    """
    # One core is left for the page, and trainers on several devices share the others.
    num_threads = max(1, (count_cpus() - 1) // num_trainers)
    return {
        "OMP_NUM_THREADS": str(num_threads),
        # A thread that waits for the others sleeps soon. GNU OpenMP lets it spin for milliseconds, which on busy
        # cores keeps away the very thread that it waits for.
        "GOMP_SPINCOUNT": SPIN_COUNT,
        "TOKENIZERS_PARALLELISM": "false",
        # A base model is complete on this machine before a job on it starts.
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _tell(child: subprocess.Popen[bytes], assignments: Sequence[Assignment]) -> bool:
    """Whether a waiting trainer took its assignments."""
    assert child.stdin is not None
    line = " ".join(str(assignment) for assignment in assignments)
    try:
        child.stdin.write(f"{line}\n".encode())
        child.stdin.flush()
    except OSError:
        return False
    finally:
        _hang_up(child)
    return child.poll() is None


def _hang_up(child: subprocess.Popen[bytes]) -> None:
    """Closes the pipe to a trainer; one that is gone already has broken it, which no longer matters."""
    with contextlib.suppress(OSError):
        if child.stdin is not None:
            child.stdin.close()
