"""Faults of the queue with real processes and real signals: deaths at the worst moment, held locks, races."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from storage.artifacts import ArtifactStore
from storage.database import Database, open_database
from storage.jobs import events_after, get_job
from storage.lease import Lease, LeaseLostError
from storage.schema.job import Job, JobStatus
from storage.schema.prefix import Prefix
from storage.settings import Settings
from storage.sweep import Sweeper
from tests.paper_trainer import final_sum
from tests.stored import add_job, claim
from worker.dispatcher import Dispatcher
from worker.downloader import Downloader
from worker.executor import LocalExecutor
from worker.training.recorder import Recorder

ROOT = Path(__file__).parents[1]
PAPER = ("-m", "tests.paper_trainer", "--steps", "30", "--step-s", "0.03", "--checkpoint-every", "5")
KILLS_ITSELF = ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
DIES_BETWEEN_FILE_AND_ROW = """
import os, signal, sys
from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.lease import Lease
from storage.settings import read_settings
from tests.stored import PREFIX_FIELDS
settings = read_settings({"PREFIX_STUDIO_HOME": sys.argv[1]})
job_id, attempt = sys.argv[sys.argv.index("--assign") + 1].split(":")
sha256 = ArtifactStore(settings).put_bytes(f"the prefix of attempt {attempt}".encode())
if attempt == "1":
    os.kill(os.getpid(), signal.SIGKILL)
with open_database(settings).write() as session:
    Lease(job_id, int(attempt)).succeed(session, {**PREFIX_FIELDS, "artifact_hash": sha256})
"""


class Queue:
    """A dispatcher with real trainers of some command."""

    def __init__(self, settings: Settings, database: Database, *command: str) -> None:
        self.database = database
        (settings.home / "run").mkdir(exist_ok=True)
        executor = LocalExecutor(settings.home / "run" / "trainer.log", command=[sys.executable, *command])
        # Warm trainers would blur whose process it is that dies.
        executor.keep_warm = lambda: None  # type: ignore[method-assign]
        self.executor = executor
        self.dispatcher = Dispatcher(settings, database, executor, Downloader(database))

    def run_until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, "it did not come to hold in time"
            self.dispatcher.tick()
            time.sleep(0.02)

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return get_job(session, job_id)


@pytest.fixture
def start(settings: Settings, database: Database) -> Iterator[Callable[..., Queue]]:
    """Starts dispatchers whose trainers run a command; none of those outlives the test."""
    queues: list[Queue] = []

    def start_queue(*command: str) -> Queue:
        queues.append(Queue(settings, database, *command))
        return queues[-1]

    yield start_queue
    for queue in queues:
        queue.executor.stop(timeout_s=5.0)


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)


def submit(database: Database, name: str = "Reviews") -> str:
    with database.write() as session:
        return add_job(session, name=name).id


def test_death_between_the_file_and_its_row_leaves_exactly_one_prefix(
    database: Database, settings: Settings, store: ArtifactStore, start: Callable[..., Queue]
) -> None:
    job_id = submit(database)
    queue = start("-c", DIES_BETWEEN_FILE_AND_ROW, str(settings.home))
    queue.run_until(lambda: queue.job(job_id).status == JobStatus.SUCCEEDED)
    assert (queue.job(job_id).attempt, queue.job(job_id).lost_attempts) == (2, 1)
    with database.read() as session:
        (prefix,) = session.scalars(select(Prefix))
    assert len(list(store.hashes())) == 2
    Sweeper(0.0).look(database, store)
    assert list(store.hashes()) == [prefix.artifact_hash]


def test_job_that_kills_its_trainer_each_time_is_set_aside_and_the_next_one_starts(
    database: Database, start: Callable[..., Queue]
) -> None:
    deadly, innocent = submit(database), submit(database, "next in line")
    queue = start(*KILLS_ITSELF)
    queue.run_until(lambda: queue.job(innocent).attempt > 0)
    job = queue.job(deadly)
    assert (job.status, job.attempt) == (JobStatus.FAILED, 3)
    assert job.error is not None
    assert job.error["code"] == "quarantined"
    assert "was killed" in job.error["message"]


def test_stop_of_the_dispatcher_leaves_a_checkpoint_that_the_next_one_goes_on_from(
    database: Database, settings: Settings, start: Callable[..., Queue]
) -> None:
    job_id = submit(database)
    first = start(*PAPER, "--home", str(settings.home))
    first.run_until(lambda: first.job(job_id).step > 3)
    first.dispatcher.shut_down()
    stopped = first.job(job_id)
    assert (stopped.status, stopped.lost_attempts) == (JobStatus.QUEUED, 0)
    assert stopped.step < 30

    second = start(*PAPER, "--home", str(settings.home))
    second.run_until(lambda: second.job(job_id).status == JobStatus.SUCCEEDED)
    with database.read() as session:
        (prefix,) = session.scalars(select(Prefix))
        steps = [event.step for event in events_after(session, job_id) if event.kind == "step"]
    assert prefix.metrics["sum"] == final_sum(30)
    assert steps == list(range(1, 31))


def test_death_of_everything_at_once_costs_no_lease(
    database: Database, settings: Settings, start: Callable[..., Queue]
) -> None:
    job_id = submit(database)
    first = start(*PAPER, "--home", str(settings.home))
    first.run_until(lambda: first.job(job_id).step > 6)
    trainer = next(iter(first.executor._busy.values())).child
    trainer.kill()
    trainer.wait()
    # The first dispatcher does no more, as if it had died with its trainer; the next one knows nothing of them.
    second = start(*PAPER, "--home", str(settings.home))
    second.run_until(lambda: second.job(job_id).status == JobStatus.SUCCEEDED, timeout_s=settings.lease_s / 2)
    assert (second.job(job_id).attempt, second.job(job_id).lost_attempts) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_kill_of_the_dispatcher_loses_nothing(
    database: Database, settings: Settings, start: Callable[..., Queue]
) -> None:
    job_id = submit(database)
    code = (
        "import sys; from tests.test_deaths import *; from storage.settings import read_settings\n"
        "settings = read_settings({'PREFIX_STUDIO_HOME': sys.argv[1]}); database = open_database(settings)\n"
        "Queue(settings, database, *PAPER, '--home', sys.argv[1]).run_until(lambda: False)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(settings.home)], cwd=ROOT)
    second = start(*PAPER, "--home", str(settings.home))
    until(lambda: second.job(job_id).step > 3)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    # The trainer hears of it by SIGTERM, writes a checkpoint and gives its job back.
    until(lambda: second.job(job_id).status == JobStatus.QUEUED)
    second.run_until(lambda: second.job(job_id).status == JobStatus.SUCCEEDED)
    assert (second.job(job_id).attempt, second.job(job_id).lost_attempts) == (2, 0)
    with database.read() as session:
        assert [prefix.metrics["sum"] for prefix in session.scalars(select(Prefix))] == [final_sum(30)]


def test_what_is_told_while_the_database_is_locked_is_written_afterwards(
    settings: Settings, database: Database
) -> None:
    hasty = open_database(replace(settings, busy_timeout_s=0.05))
    job_id = submit(database)
    recorder = Recorder(hasty, claim(database))
    with closing(sqlite3.connect(settings.home / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for step in (1, 2, 3):
            recorder.add("step", {"loss": 1.0}, step)
            recorder.progress(step=step)
            recorder.flush()
        other.execute("ROLLBACK")
    recorder.flush()
    hasty.close()
    with database.read() as session:
        steps = [event.step for event in events_after(session, job_id) if event.kind == "step"]
        assert (steps, get_job(session, job_id).step) == ([1, 2, 3], 3)


def test_discard_that_races_the_completion_in_another_process_leaves_one_end(
    database: Database, settings: Settings
) -> None:
    job_ids = [submit(database, f"job {number}") for number in range(40)]
    assert [claim(database).job_id for _ in job_ids] == job_ids
    command = [sys.executable, "-m", "tests.rivals", "end", settings.database_url, *job_ids]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120).stdout.split("\n")
    discarded = {line.partition(" ")[0] for line in told if line}
    for job_id in job_ids:
        with database.read() as session:
            ends = [event.data["status"] for event in events_after(session, job_id) if event.kind == "state"][2:]
            job = get_job(session, job_id)
            num_prefixes = len(session.scalars(select(Prefix).where(Prefix.job_id == job_id)).all())
        # Whoever was told that the job is discarded finds no prefix of it, and nobody else loses one.
        assert ends == ["cancelled" if job_id in discarded else "succeeded"]
        assert (job.status.value, job.stop_request, num_prefixes) == (ends[0], None, job_id not in discarded)
        with pytest.raises(LeaseLostError, match="no longer owns it"), database.write() as session:
            Lease(job_id, 1).cancel(session)
