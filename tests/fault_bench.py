"""A real dispatcher with real trainers, torch and all, on a home folder with a tiny base: for tests that kill them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from storage.checkpoints import list_checkpoints
from storage.schema.job import JobStatus
from storage.settings import Settings, read_settings
from tests.trainer_bench import Role
from tests.trainer_nursery import NurseryExecutor
from worker.dispatcher import Dispatcher
from worker.downloader import Downloader

PATIENCE_S = 90.0


class RealQueue:
    """A dispatcher of this process, whose trainers are what the app starts.

    Args:
        role: The home folder, with a dataset and a tiny base.
        num_slots: How many trainers work at once.
    """

    def __init__(self, role: Role, num_slots: int = 1) -> None:
        self.role = role
        settings = role.workplace.settings
        (settings.home / "run").mkdir(exist_ok=True)
        self.executor = NurseryExecutor(settings.home / "run" / "trainer.log", num_slots)
        self.dispatcher = Dispatcher(settings, role.database, self.executor, Downloader(role.database))

    def run_until(self, holds: Callable[[], bool], *, look_s: float = 0.02, patience_s: float = PATIENCE_S) -> None:
        """Lets the dispatcher work until something holds."""
        deadline = time.monotonic() + patience_s
        while not holds():
            assert time.monotonic() < deadline, f"it did not come to hold in time; {self.tail()}"
            self.dispatcher.tick()
            time.sleep(look_s)

    def ended(self, *job_ids: str) -> bool:
        """Whether all of the jobs have ended."""
        ends = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
        return all(self.role.job(job_id).status in ends for job_id in job_ids)

    def trainer_of(self, job_id: str) -> psutil.Process:
        """The process that trains a job."""
        self.executor.hear()
        pids = {assignment.job_id: pid for assignment, pid in self.executor.pids.items()}
        return psutil.Process(pids[job_id])

    def checkpointed_step(self, job_id: str) -> int:
        """The last step of which a checkpoint is written down."""
        with self.role.database.read() as session:
            return max((row.step for row in list_checkpoints(session, job_id)), default=0)

    def stop(self) -> None:
        """Ends every trainer."""
        self.executor.stop(timeout_s=10.0)

    def tail(self) -> str:
        """The end of what trainers printed."""
        home = self.role.workplace.settings.home
        logs = [home / "run" / "trainer.log", *sorted((home / "artifacts" / "runs").glob("*/*/trainer.log"))]
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs if log.exists())


def hasty_settings(home: Path, **seconds: float) -> Settings:
    """Settings that trainers of this process's environment read too: a checkpoint after every step."""
    chosen = {"PREFIX_STUDIO_CHECKPOINT_EVERY_S": 0.001, **seconds}
    os.environ.update({"PREFIX_STUDIO_HOME": str(home), **{name: str(value) for name, value in chosen.items()}})
    return read_settings()


def kill_while_writing(process: psutil.Process, folder: Path, pattern: str) -> list[Path]:
    """Kills a process at a moment at which it has begun a file and not finished it.

    Args:
        process: It is stopped as soon as such a file is seen, and goes on where the file was finished after all.
        folder: Where it writes.
        pattern: Names of unfinished files.

    Returns:
        What it left.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not list(folder.glob(pattern)):
            continue
        process.send_signal(signal.SIGSTOP)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            time.sleep(0.001)
        if left := list(folder.glob(pattern)):
            process.kill()
            return left
        process.send_signal(signal.SIGCONT)
    raise AssertionError(f"no file of {pattern} was being written")
