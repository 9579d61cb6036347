"""Real trainers without the seconds that their imports take: forked from one process that has done these.

`python -m tests.trainer_nursery` reads assignments from stdin, a line each, and starts a process for each of them that
runs `worker.trainer` from its first line on, with short answers. It tells `PID ASSIGNMENT` of each start and
`ended ASSIGNMENT CODE` of each end. `NurseryExecutor` speaks with it in the place of the app's own executor, for tests
that kill many trainers.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from storage.children import spawn, stop
from storage.lease import Lease
from storage.settings import read_settings
from worker.executor import Ended
from worker.training.assignment import Assignment

ROOT = Path(__file__).parents[1]
LOOK_S = 0.01
FATAL = "dies-publishing"
"""A file of that name and a job's id, in the home's folder `run`: the job's trainer dies between file and row."""


class NurseryExecutor:
    """An `Executor` whose trainers are forked; each is a process of its own that a signal ends alone.

    Args:
        log_path: What trainers print before they know their job.
        num_slots: How many work at once.
    """

    def __init__(self, log_path: Path, num_slots: int = 1) -> None:
        with log_path.open("ab") as log:
            self._nursery = spawn(
                [sys.executable, "-m", "tests.trainer_nursery"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._nursery.stdout is not None
        os.set_blocking(self._nursery.stdout.fileno(), False)
        self._num_slots = num_slots
        self._told = b""
        self._ended: list[Ended] = []
        self.pids: dict[Assignment, int | None] = {}

    def free_slots(self) -> int:
        return self._num_slots - len(self.pids)

    def next_device(self) -> None:
        """None: they train on the CPU."""

    def start(self, assignments: Sequence[Assignment]) -> None:
        assert self._nursery.stdin is not None
        for assignment in assignments:
            self.pids[assignment] = None
            self._nursery.stdin.write(f"{assignment}\n".encode())
        self._nursery.stdin.flush()

    def ended(self) -> list[Ended]:
        self.hear()
        ended, self._ended = self._ended, []
        return ended

    def kill(self, assignment: Assignment) -> None:
        self.hear()
        if pid := self.pids.get(assignment):
            os.kill(pid, signal.SIGKILL)

    def keep_warm(self) -> None:
        """The nursery itself is what is warm."""

    def stop(self, timeout_s: float) -> None:
        self.hear()
        for pid in self.pids.values():
            if pid is not None:
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.pids and time.monotonic() < deadline and self._nursery.poll() is None:
            self.hear()
            time.sleep(LOOK_S)
        for assignment in list(self.pids):
            self.kill(assignment)
        stop([self._nursery], timeout_s=5.0)
        for pipe in (self._nursery.stdin, self._nursery.stdout):
            assert pipe is not None
            pipe.close()

    def hear(self) -> None:
        """Takes in what the nursery has told since."""
        assert self._nursery.stdout is not None
        self._told += self._nursery.stdout.read() or b""
        *lines, self._told = self._told.split(b"\n")
        for words in (line.decode().split() for line in lines):
            if words[0] == "ended":
                assignment = Assignment.parse(words[1])
                self.pids.pop(assignment)
                self._ended.append(Ended(assignment, int(words[2])))
            else:
                self.pids[Assignment.parse(words[1])] = int(words[0])


def train(assignment: str) -> None:
    """Is a trainer, from here to the end of this process."""
    from worker.trainer import main

    signal.set_wakeup_fd(-1)
    os.dup2(2, 1)
    code = 70
    try:
        code = main(["--assign", assignment])
    finally:
        os._exit(code)


def nurse() -> None:
    """Forks a trainer for each line, and tells of each that ends, until stdin is closed."""
    import worker.trainer  # noqa: F401
    from worker.training import comparison, publish, samples

    # Tests that kill are not about answers, which take most of the time of a tiny job.
    samples.MAX_NEW_TOKENS = 2
    comparison.MIN_BUDGET_S = 0.5
    publish.keep_exact = partial(die_if_told, publish.keep_exact)
    trainers: dict[int, str] = {}
    awake, told = os.pipe()
    for end in (awake, told):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(told)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if awake in ready:
                os.read(awake, 4096)
                tell_of_ended(trainers)
            if 0 in ready:
                lines = os.read(0, 65_536).decode().split()
                if not lines:
                    return
                for assignment in lines:
                    pid = os.fork()
                    if pid == 0:
                        train(assignment)
                    trainers[pid] = assignment
                    print(pid, assignment, flush=True)


def die_if_told(keep_exact: Callable[..., None], session: Any, lease: Lease, *snapshot: Any) -> None:
    """Before the first row of a publication, whose file is stored by then: dies once where a file asks for it."""
    fatal = read_settings().home / "run" / f"{FATAL}-{lease.job_id}"
    if fatal.exists():
        fatal.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    keep_exact(session, lease, *snapshot)


def tell_of_ended(trainers: dict[int, str]) -> None:
    for pid in list(trainers):
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            print("ended", trainers.pop(pid), os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    nurse()
