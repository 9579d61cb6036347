"""Many jobs, real processes, random kills: every job ends once, in its right state, with the right result.

The trainers speak the whole protocol without torch. `SOAK_JOBS=200 SOAK_SEED=7` makes it long, or another one.
"""

import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from storage.database import Database
from storage.jobs import events_after, list_jobs
from storage.lease import MAX_LOST_ATTEMPTS
from storage.schema.job import JobStatus
from storage.schema.prefix import Prefix
from storage.settings import Settings
from tests.paper_trainer import final_sum
from tests.stored import add_job
from worker.dispatcher import Dispatcher
from worker.downloader import Downloader
from worker.executor import LocalExecutor

NUM_JOBS = int(os.environ.get("SOAK_JOBS", "12"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
STEPS = 12
KILLS_PER_SECOND = 0.5
ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 10 * NUM_JOBS)]


def kill_at_random(executor: LocalExecutor, rng: random.Random, passed_s: float) -> int:
    """Kills one of the trainers that work, now and then; how many."""
    busy = [busy.child for busy in executor._busy.values() if busy.child.poll() is None]
    if not busy or rng.random() > KILLS_PER_SECOND * passed_s * len(busy):
        return 0
    rng.choice(busy).kill()
    return 1


def test_every_job_ends_once_in_its_right_state_whatever_is_killed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    with database.write() as session:
        for number in range(NUM_JOBS):
            add_job(session, name=f"job {number}")
    command = [
        sys.executable, "-m", "tests.paper_trainer", "--steps", str(STEPS), "--step-s", "0.05",
        "--checkpoint-every", "3", "--home", str(settings.home),
    ]  # fmt: skip
    executor = LocalExecutor(tmp_path / "trainer.log", ("0", "1", "2"), command)
    dispatcher = Dispatcher(settings, database, executor, Downloader(database))
    kills, looked_at, is_over = 0, time.monotonic(), False
    try:
        while not is_over:
            dispatcher.tick()
            time.sleep(0.05)
            passed_s, looked_at = time.monotonic() - looked_at, time.monotonic()
            kills += kill_at_random(executor, rng, passed_s)
            with database.read() as session:
                is_over = all(job.status in ENDED for job in list_jobs(session))
    finally:
        executor.stop(timeout_s=5.0)
    print(f"{NUM_JOBS} jobs, seed {SEED}, {kills} kills")

    with database.read() as session:
        jobs = list_jobs(session)
        sums = {prefix.job_id: prefix.metrics["sum"] for prefix in session.scalars(select(Prefix))}
        states = {
            job.id: Counter(event.data["status"] for event in events_after(session, job.id) if event.kind == "state")
            for job in jobs
        }
    assert len(jobs) == NUM_JOBS
    assert kills > 0
    for job in jobs:
        is_quarantined = job.lost_attempts == MAX_LOST_ATTEMPTS
        assert job.status == (JobStatus.FAILED if is_quarantined else JobStatus.SUCCEEDED)
        assert states[job.id]["succeeded"] + states[job.id]["failed"] == 1
        assert states[job.id]["running"] == job.attempt == states[job.id]["queued"]
        assert job.attempt == (MAX_LOST_ATTEMPTS if is_quarantined else job.lost_attempts + 1)
    assert sums == {job.id: final_sum(STEPS) for job in jobs if job.status == JobStatus.SUCCEEDED}
