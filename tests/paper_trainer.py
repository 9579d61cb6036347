"""A trainer that speaks the real protocol, but computes on paper: leases, events, checkpoints, wishes, no torch.

`python -m tests.paper_trainer --steps N --step-s S [--assign JOB:ATTEMPT]`; without an assignment it waits for one on
stdin, as a warm trainer does. Its "training" adds up hashes of the step's number, so that a run that was broken off and
resumed must end at the very sum of one that was not. For tests and `bench.queue`.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactStore
from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.database import Database, open_database
from storage.lease import Lease, LeaseLostError, NewEvent, Progress
from storage.lease_watch import hold
from storage.schema.job import StopRequest
from storage.settings import read_settings
from worker.training.assignment import Assignment
from worker.training.heartbeat import Heartbeat

LOST = 3
"""Exit code of a trainer that another attempt has replaced."""


def weight(step: int) -> int:
    """What a step adds to the sum."""
    return int.from_bytes(hashlib.sha256(str(step).encode()).digest()[:4], "big")


def final_sum(num_steps: int) -> int:
    """What an uninterrupted run comes to."""
    return sum(weight(step) for step in range(1, num_steps + 1))


class PaperTrainer:
    """One attempt: from the last checkpoint to an end.

    Args:
        database: The open database.
        store: Keeps checkpoints.
        lease: The attempt.
        lease_s: How long a lease lasts without renewal.
        terminated: Set once the process is asked to end.
    """

    def __init__(
        self, database: Database, store: ArtifactStore, lease: Lease, lease_s: float, terminated: threading.Event
    ) -> None:
        self.database = database
        self.folder = store.run_folder(lease.job_id, lease.attempt)
        hold(self.folder)
        self.lease = lease
        self.lease_s = lease_s
        self.terminated = terminated

    def run(self, num_steps: int, step_s: float, checkpoint_every: int) -> None:
        """Works until the last step, or until somebody wishes otherwise."""
        step, total = self._resume()
        with Heartbeat(self.database, self.lease, self.lease_s) as heartbeat:
            while step < num_steps and heartbeat.asked is None and not self.terminated.is_set():
                if heartbeat.is_lost:
                    raise LeaseLostError("Another attempt owns the job.")
                time.sleep(step_s)
                step, total = step + 1, total + weight(step + 1)
                event = NewEvent("step", {"loss": 1.0 / step}, step)
                with self.database.write() as session:
                    self.lease.record(session, [event], Progress(step=step, max_steps=num_steps))
                if step % checkpoint_every == 0:
                    self._checkpoint(step, total)
            self._end(heartbeat.asked, step, total, num_steps)

    def _end(self, asked: StopRequest | None, step: int, total: int, num_steps: int) -> None:
        finished = step == num_steps
        if not finished and asked not in (StopRequest.KEEP, StopRequest.DISCARD):
            self._checkpoint(step, total)
        with self.database.write() as session:
            if asked == StopRequest.DISCARD or self.lease.renew(session) == StopRequest.DISCARD:
                self.lease.cancel(session)
            elif finished or asked == StopRequest.KEEP:
                self.lease.succeed(session, prefix_of(total), stopped_early=not finished)
            else:
                self.lease.release(session, paused=asked == StopRequest.PAUSE)

    def _resume(self) -> tuple[int, int]:
        with self.database.read() as session:
            paths = [Path(row.path) for row in list_checkpoints(session, self.lease.job_id)]
        state = json.loads(paths[0].read_text()) if paths else {"step": 0, "total": 0}
        return state["step"], state["total"]

    def _checkpoint(self, step: int, total: int) -> None:
        path = self.folder / f"checkpoint-{step}.json"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump({"step": step, "total": total}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        data = path.read_bytes()
        with self.database.write() as session:
            sha256 = hashlib.sha256(data).hexdigest()
            add_checkpoint(session, self.lease, step=step, path=path, sha256=sha256, size_bytes=len(data))


def prefix_of(total: int) -> dict[str, Any]:
    """Columns of a prefix whose "file" is the sum."""
    return {
        "base_fingerprint": "f" * 64,
        "num_virtual_tokens": 8,
        "num_parameters": 1024,
        "size_bytes": 4096,
        "metrics": {"sum": total},
        "samples": [],
        "artifact_hash": hashlib.sha256(str(total).encode()).hexdigest(),
    }


def main() -> int:
    """Runs one assignment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--step-s", type=float, default=0.02)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--lease-s", type=float, default=60.0)
    parser.add_argument("--home", default=os.environ.get("PREFIX_STUDIO_HOME"), help="the home folder")
    parser.add_argument("--assign", metavar="JOB:ATTEMPT")
    arguments = parser.parse_args()
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set() if arguments.assign else os._exit(0))
    if arguments.assign is None:
        print("ready", flush=True)
        arguments.assign = sys.stdin.readline().strip()
        if not arguments.assign:
            return 0
    assignment = Assignment.parse(arguments.assign)
    settings = read_settings({**os.environ, "PREFIX_STUDIO_HOME": arguments.home or ""})
    database = open_database(settings)
    lease = Lease(assignment.job_id, assignment.attempt)
    trainer = PaperTrainer(database, ArtifactStore(settings), lease, arguments.lease_s, terminated)
    try:
        trainer.run(arguments.steps, arguments.step_s, arguments.checkpoint_every)
    except LeaseLostError:
        return LOST
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
