"""Real trainers, torch and all, killed at random: every job ends once, in its right state, with the right prefix.

`SOAK_REAL_JOBS=20 SOAK_REAL_SEED=7` makes it long, or another one.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.jobs import events_after, list_jobs
from storage.lease import MAX_LOST_ATTEMPTS
from storage.schema.job import JobStatus
from storage.schema.prefix import Prefix
from storage.settings import Settings
from tests.fault_bench import RealQueue, hasty_settings
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role

NUM_JOBS = int(os.environ.get("SOAK_REAL_JOBS", "3"))
SEED = int(os.environ.get("SOAK_REAL_SEED", "0"))
KILL_AFTER_S = (0.2, 2.5)
KILL_SHARE = 0.5
"""Of the attempts, that are killed so many seconds after their start."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 60 * NUM_JOBS)]


@pytest.fixture
def queue(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealQueue]:
    for name in ("PREFIX_STUDIO_HOME", "PREFIX_STUDIO_CHECKPOINT_EVERY_S"):
        monkeypatch.setenv(name, "")  # what is set below goes when the test ends
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    hasty = hasty_settings(settings.home, PREFIX_STUDIO_CHECKPOINT_EVERY_S=0.1)
    database = open_database(hasty)
    base = tiny_base_folder(tmp_path / "models" / "tiny")
    queue = RealQueue(Role(hasty, database, ArtifactStore(hasty), base, validation_fraction=0.05), num_slots=2)
    yield queue
    queue.stop()
    database.close()


class Killer:
    """Kills about every second trainer, a while after it began; the first in any case."""

    def __init__(self, queue: RealQueue) -> None:
        self.kills = 0
        self._queue = queue
        self._rng = random.Random(SEED)
        self._doomed: dict[tuple[str, int], float | None] = {}

    def look(self) -> None:
        now = time.monotonic()
        for assignment, pid in list(self._queue.executor.pids.items()):
            key = (assignment.job_id, assignment.attempt)
            if key not in self._doomed:
                is_doomed = not self._doomed or self._rng.random() < KILL_SHARE
                self._doomed[key] = now + self._rng.uniform(*KILL_AFTER_S) if is_doomed else None
            at = self._doomed[key]
            if at is not None and now >= at and pid is not None:
                self._doomed[key] = None
                self.kills += 1
                self._queue.executor.kill(assignment)


def test_every_job_of_real_trainers_ends_once_in_its_right_state_whatever_is_killed(queue: RealQueue) -> None:
    jobs = [queue.role.submit(max_steps=120, eval_every=60, learning_rate=0.01) for _ in range(NUM_JOBS)]
    killer = Killer(queue)

    def is_over() -> bool:
        killer.look()
        return queue.ended(*jobs)

    queue.run_until(is_over, patience_s=60.0 * (NUM_JOBS + 1))
    print(f"{NUM_JOBS} jobs of real trainers, seed {SEED}, {killer.kills} kills")

    with queue.role.database.read() as session:
        rows = list_jobs(session)
        hashes = {prefix.job_id: prefix.artifact_hash for prefix in session.scalars(select(Prefix))}
        states = {
            job.id: Counter(event.data["status"] for event in events_after(session, job.id) if event.kind == "state")
            for job in rows
        }
    assert killer.kills > 0
    for job in rows:
        is_quarantined = job.lost_attempts == MAX_LOST_ATTEMPTS
        assert job.status == (JobStatus.FAILED if is_quarantined else JobStatus.SUCCEEDED), job.error
        assert states[job.id]["succeeded"] + states[job.id]["failed"] == 1
        assert states[job.id]["running"] == job.attempt == states[job.id]["queued"]
        assert job.attempt == (MAX_LOST_ATTEMPTS if is_quarantined else job.lost_attempts + 1)
    assert set(hashes) == {job.id for job in rows if job.status == JobStatus.SUCCEEDED}
    # All jobs are equal, so whatever was killed on the way, their prefixes are too.
    assert len(set(hashes.values())) <= 1
