"""Runs trainers: one process for each job, on a slot of this machine, one more kept warm for the next."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.children import spawn, stop
from worker.training.assignment import Assignment

logger = logging.getLogger(__name__)

TRAINER = (sys.executable, "-m", "worker.trainer")
PROBE_TIMEOUT_S = 10.0
WARM_RETRY_S = 10.0
SPARE_AFTER_S = 20.0
"""How long a trainer works before the next one gets ready behind it: a short job should not share its cores."""

MAX_LOG_BYTES = 1_000_000

SPIN_COUNT = "1000"
"""On two cores with a load of eight, a training step took 0.3 s with it, and 2.5 to 7 s with OpenMP's own choice."""


@dataclass(frozen=True)
class Ended:
    """A trainer that is no more.

    Attributes:
        assignment: What it was told to do.
        exit_code: Negative where a signal ended it.
    """

    assignment: Assignment
    exit_code: int


class Executor(Protocol):
    """Where trainers run. All of them run the same command; only the place differs."""

    def free_slots(self) -> int:
        """How many more trainers may start now."""

    def start(self, assignment: Assignment) -> None:
        """Starts a trainer for an assignment, on a free slot."""

    def ended(self) -> list[Ended]:
        """The trainers that ended since this was last asked."""

    def kill(self, assignment: Assignment) -> None:
        """Ends a trainer that no longer answers, at once; nothing happens where it does not run here."""

    def keep_warm(self) -> None:
        """Gets free slots ready, so that the next job starts without the time that imports take."""

    def stop(self, timeout_s: float) -> None:
        """Ends all trainers: each writes a checkpoint first, if it can do so in time."""


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
        self._busy: dict[str | None, tuple[Assignment, subprocess.Popen[bytes]]] = {}
        self._busy_since: dict[str | None, float] = {}

    def free_slots(self) -> int:
        """How many devices have no trainer with a job."""
        return len(self._devices) - len(self._busy)

    def start(self, assignment: Assignment) -> None:
        """Gives the assignment to a warm trainer, or to a new one where none is left."""
        device = next(device for device in self._devices if device not in self._busy)
        child = self._warm.pop(device, None)
        if child is None or not _tell(child, assignment):
            child = self._spawn(device, ["--assign", str(assignment)], stdin=subprocess.DEVNULL)
        self._busy[device] = (assignment, child)
        self._busy_since[device] = time.monotonic()

    def ended(self) -> list[Ended]:
        """The trainers with a job that ended since this was last asked."""
        over = [
            (device, Ended(assignment, child.returncode))
            for device, (assignment, child) in self._busy.items()
            if child.poll() is not None
        ]
        for device, _ in over:
            del self._busy[device]
        return [ended for _, ended in over]

    def kill(self, assignment: Assignment) -> None:
        """Kills the trainer with that assignment and whatever it started; `ended` tells of it as of any other."""
        for running, child in self._busy.values():
            if running == assignment:
                stop([child], timeout_s=0.0)

    def keep_warm(self) -> None:
        """Starts a waiting trainer on each device that has none, behind one that works only after a while."""
        now = time.monotonic()
        for device in self._devices:
            waiting = self._warm.get(device)
            is_waiting = waiting is not None and waiting.poll() is None
            if is_waiting or (device in self._busy and now - self._busy_since[device] < SPARE_AFTER_S):
                continue
            # One that dies at once (a broken install) is not tried again and again without a pause.
            if waiting is None or now - self._warmed_at[device] >= WARM_RETRY_S:
                if waiting is not None:
                    _hang_up(waiting)
                self._warm[device] = self._spawn(device, [], stdin=subprocess.PIPE)
                self._warmed_at[device] = now

    def stop(self, timeout_s: float) -> None:
        """Ends all trainers, the waiting ones too."""
        stop([*self._warm.values(), *(child for _, child in self._busy.values())], timeout_s=timeout_s)
        for child in self._warm.values():
            _hang_up(child)
        self._warm.clear()

    def _spawn(self, device: str | None, arguments: list[str], stdin: int) -> subprocess.Popen[bytes]:
        if self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES:
            self._log_path.unlink()
        with self._log_path.open("ab") as log:
            return spawn(
                [*self._command, *arguments], environment=_environment(device), stdin=stdin, stdout=log, stderr=log
            )


def find_devices() -> list[str | None]:
    """The slots of this machine: one for each NVIDIA GPU that this process may use, else a single one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()] or [None]
    if shutil.which("nvidia-smi") is None:
        return [None]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi does not answer (%s); trainers use one slot", error)
        return [None]
    return [line.strip() for line in told.splitlines() if line.strip()] or [None]


def count_cpus() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tell(child: subprocess.Popen[bytes], assignment: Assignment) -> bool:
    """Whether a waiting trainer took its assignment."""
    assert child.stdin is not None
    try:
        child.stdin.write(f"{assignment}\n".encode())
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


def _environment(device: str | None) -> dict[str, str]:
    environment = {
        # One core is left for the page.
        "OMP_NUM_THREADS": str(max(1, count_cpus() - 1)),
        # A thread that waits for the others sleeps soon. GNU OpenMP lets it spin for milliseconds, which on busy cores
        # keeps away the very thread that it waits for.
        "GOMP_SPINCOUNT": SPIN_COUNT,
        "TOKENIZERS_PARALLELISM": "false",
        # A base model is complete on this machine before a job on it starts.
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return environment if device is None else {**environment, "CUDA_VISIBLE_DEVICES": device}
