"""The trainer role: runs the jobs that it is told to, those over one base model in one pass, and exits.

`python -m worker.trainer --assign JOB:ATTEMPT [JOB:ATTEMPT …]`. Without `--assign` it does its imports, reports that it
is ready, and waits for one line of assignments on stdin. On SIGTERM it writes a checkpoint of each job, gives them back
to the queue and exits with 0.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from storage.artifacts import ArtifactStore
from storage.children import end_with_parent
from storage.database import open_database
from storage.errors import StudioError
from storage.lease_watch import hold
from storage.logs import set_up_logging
from storage.settings import read_settings
from worker.training.assignment import Assignment
from worker.training.run import run_attempts
from worker.training.workplace import Workplace

logger = logging.getLogger(__name__)

LOG_NAME = "trainer.log"


class Termination:
    """Turns SIGTERM into a wish that the training reads between steps; a trainer without a job exits at once."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._has_job = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def take_job(self) -> None:
        """From now on a signal is a wish."""
        self._has_job = True

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._has_job:
            os._exit(0)
        self.asked.set()


def main(arguments: list[str] | None = None) -> int:
    """Runs the assigned jobs; returns the exit code."""
    set_up_logging("trainer")
    parser = argparse.ArgumentParser(prog="python -m worker.trainer", description="Runs training jobs.")
    parser.add_argument("--assign", nargs="+", metavar="JOB:ATTEMPT", help="the jobs; none waits for a line on stdin")
    words = parser.parse_args(arguments).assign
    termination = Termination()
    end_with_parent()
    if words is None:
        print("ready", flush=True)
        words = sys.stdin.readline().split()
    termination.take_job()
    try:
        assignments = [Assignment.parse(word) for word in words]
        settings = read_settings()
        workplace = Workplace(settings, open_database(settings), ArtifactStore(settings), termination.asked)
    except (StudioError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if assignments:
        for each in assignments:
            hold(workplace.store.run_folder(each.job_id, each.attempt))
        _write_to_run_folders(workplace.store, assignments)
        run_attempts(workplace, assignments)
    return 0


def _write_to_run_folders(store: ArtifactStore, assignments: Sequence[Assignment]) -> None:
    """Sends everything that this process prints, libraries included, to a file beside the jobs' checkpoints.

    Jobs of one process share one file, which stands in each of their folders and goes with the last of them.
    """
    first, *others = [store.run_folder(each.job_id, each.attempt) / LOG_NAME for each in assignments]
    descriptor = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    for path in others:
        try:
            os.link(first, path)
        except OSError as error:
            logger.warning("%s has no log of its own (%s); see %s", path.parent.name, error.strerror, first)


if __name__ == "__main__":
    code = main()
    # Everything is written and synced; taking torch apart would keep the slot for another second or two.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
