"""The dispatcher: from a queued job to a trainer, and back when the trainer dies."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.services.health import HoldUps
from storage import disk
from storage.base_models import BaseModelRecord, get_base_model_by_id, register
from storage.database import Database
from storage.datasets import create_dataset
from storage.errors import BusyError
from storage.jobs import delete_job, get_job, submit_job
from storage.lease import Lease
from storage.order import set_priority
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.schema.job import Job, JobStatus
from storage.settings import Settings
from storage.tables.table import StoredTable
from worker.dispatcher import Dispatcher, heartbeat_file
from worker.downloader import Downloader
from worker.executor import Ended, LocalExecutor
from worker.room import Room
from worker.training.assignment import Assignment


class FakeExecutor:
    """Takes assignments; the test says which of them end, and how."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.device: str | None = None
        self.trainers: list[list[Assignment]] = []
        self.started: list[Assignment] = []
        self.running: list[Assignment] = []
        self.over: list[Ended] = []
        self.killed: list[Assignment] = []
        self.is_warm = False
        self.is_stopped = False

    def free_slots(self) -> int:
        return self.slots - len([trainer for trainer in self.trainers if set(trainer) & set(self.running)])

    def next_device(self) -> str | None:
        return self.device

    def start(self, assignments: Sequence[Assignment]) -> None:
        self.started += assignments
        self.running += assignments
        self.trainers.append(list(assignments))

    def end(self, exit_code: int) -> None:
        self.over.append(Ended(self.running.pop(0), exit_code))

    def ended(self) -> list[Ended]:
        over, self.over = self.over, []
        return over

    def kill(self, assignment: Assignment) -> None:
        self.killed.append(assignment)

    def keep_warm(self) -> None:
        self.is_warm = True

    def stop(self, timeout_s: float) -> None:
        self.is_stopped = True


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


@pytest.fixture
def dispatcher(settings: Settings, database: Database, executor: FakeExecutor) -> Dispatcher:
    command = [sys.executable, "-c", "import sys; sys.exit(1)"]
    return Dispatcher(settings, database, executor, Downloader(database, command))


@pytest.fixture
def jobs(database: Database) -> list[str]:
    """Two queued jobs."""
    with database.write() as session:
        table = StoredTable({"train": "0" * 64}, ["a", "b"], {"train": 2}, 10, "0" * 64, {})
        _, version = create_dataset(session, "table.csv", table, {}, [])
        base = register(session, BaseModelRecord("base", BaseModelSource.LOCAL, DownloadState.READY))
        return [
            submit_job(
                session,
                name=name,
                dataset_version_id=version.id,
                base_model=base,
                recipe={"method": "prefix-tuning"},
                rendering={},
            ).id
            for name in ("first", "second")
        ]


def look_up(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return get_job(session, job_id)


def test_jobs_run_one_after_another(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str]
) -> None:
    dispatcher.tick()
    dispatcher.tick()
    assert executor.started == [Assignment(jobs[0], 1)]
    assert look_up(database, jobs[0]).status == JobStatus.RUNNING
    assert look_up(database, jobs[1]).status == JobStatus.QUEUED
    with database.write() as session:
        Lease(jobs[0], 1).cancel(session)
    executor.end(0)
    dispatcher.tick()
    assert executor.started[1:] == [Assignment(jobs[1], 1)]
    assert look_up(database, jobs[0]).status == JobStatus.CANCELLED


TINY_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 400,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
SMALL = {"method": "prefix-tuning", "num_virtual_tokens": 4, "learning_rate": 0.05, "batch_size": 4, "max_steps": 8}


@pytest.fixture
def queue(database: Database) -> Callable[..., list[str]]:
    """Fills the queue: one job for each recipe; `base` names its base model."""

    def fill(*recipes: dict[str, Any], **chosen: Any) -> list[str]:
        with database.write() as session:
            table = StoredTable({"train": "0" * 64}, ["a", "b"], {"train": 40}, 900, "0" * 64, {})
            _, version = create_dataset(session, "table.csv", table, {}, [])
            submitted = []
            for number, recipe in enumerate(recipes):
                name = recipe.get("base", "base")
                record = BaseModelRecord(name, BaseModelSource.LOCAL, DownloadState.READY, config=TINY_CONFIG)
                wanted = {**SMALL, **{key: value for key, value in recipe.items() if key != "base"}}
                job = submit_job(
                    session,
                    name=f"job {number}",
                    dataset_version_id=version.id,
                    base_model=register(session, record),
                    recipe=wanted,
                    rendering={},
                )
                submitted.append(job.id)
            return submitted

    return fill


def test_small_neighbours_in_the_queue_share_a_trainer(
    dispatcher: Dispatcher, executor: FakeExecutor, queue: Callable[..., list[str]]
) -> None:
    jobs = queue({}, {"seed": 2}, {"batch_size": 8})
    dispatcher.tick()
    assert executor.trainers == [[Assignment(job, 1) for job in jobs]]


@pytest.mark.parametrize(
    "other", [{"base": "another"}, {"precision": "bfloat16"}, {"learning_rate": None, "batch_size": 64}]
)
def test_job_is_not_overtaken_by_one_that_would_fit_better(
    dispatcher: Dispatcher,
    executor: FakeExecutor,
    database: Database,
    queue: Callable[..., list[str]],
    other: dict[str, Any],
) -> None:
    first, second, third = queue({}, other, {})
    for number, job in enumerate((first, second, third), start=1):
        dispatcher.tick()
        assert executor.trainers[-1] == [Assignment(job, 1)]
        assert len(executor.trainers) == number
        with database.write() as session:
            Lease(job, 1).cancel(session)
        executor.end(0)


def test_job_whose_trainer_died_goes_alone(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, queue: Callable[..., list[str]]
) -> None:
    jobs = queue({}, {})
    dispatcher.tick()
    executor.end(-signal.SIGKILL)
    executor.end(-signal.SIGKILL)
    dispatcher.tick()
    assert executor.trainers[1:] == [[Assignment(jobs[0], 2)]]
    assert [look_up(database, job).lost_attempts for job in jobs] == [1, 1]


def test_jobs_are_spread_over_free_devices_before_they_share(
    settings: Settings, database: Database, queue: Callable[..., list[str]]
) -> None:
    executor = FakeExecutor(slots=2)
    jobs = queue({}, {}, {})
    Dispatcher(settings, database, executor, Downloader(database)).tick()
    assert executor.trainers == [[Assignment(job, 1) for job in jobs[:2]], [Assignment(jobs[2], 1)]]


def test_larger_passes_are_shared_on_a_gpu_than_on_a_cpu(
    dispatcher: Dispatcher, executor: FakeExecutor, queue: Callable[..., list[str]]
) -> None:
    queue(*[{"learning_rate": None, "batch_size": 16}] * 3)
    executor.device = "0"
    dispatcher.tick()
    assert [len(trainer) for trainer in executor.trainers] == [3]


def test_trainer_of_several_jobs_is_ended_only_when_all_are_silent(
    settings: Settings, database: Database, executor: FakeExecutor, queue: Callable[..., list[str]]
) -> None:
    moments = itertools.count(0.0, 10.0)
    dispatcher = Dispatcher(settings, database, executor, Downloader(database), clock=lambda: next(moments))
    first, second = queue({}, {})
    for _ in range(20):
        dispatcher.tick()
        with database.write() as session:
            Lease(second, 1).renew(session)
    assert (look_up(database, first).status, look_up(database, second).status) == (
        JobStatus.QUEUED,
        JobStatus.RUNNING,
    )
    assert executor.killed == []


def test_training_waits_until_there_is_room(
    settings: Settings, database: Database, executor: FakeExecutor, queue: Callable[..., list[str]]
) -> None:
    class FakeMemory:
        free = 0

        def free_bytes(self, device: str | None) -> int:
            return self.free

    memory = FakeMemory()
    room = Room(settings, memory, ask=lambda settings, needed_bytes: True)
    dispatcher = Dispatcher(settings, database, executor, Downloader(database), room)
    (job,) = queue({})
    dispatcher.tick()
    assert (executor.trainers, look_up(database, job).status) == ([], JobStatus.QUEUED)
    dispatcher.tick()
    told = HoldUps(settings).sentence(job)
    assert told is not None
    assert told.startswith("Waits for memory: it needs about ")
    memory.free = 10**12
    dispatcher.tick()
    assert executor.trainers == [[Assignment(job, 1)]]
    dispatcher.tick()
    assert HoldUps(settings).sentence(job) is None


def test_urgent_job_starts_before_those_that_came_first(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str]
) -> None:
    with database.write() as session:
        set_priority(session, jobs[1], 1)
    dispatcher.tick()
    assert executor.started == [Assignment(jobs[1], 1)]


def test_nothing_starts_and_no_lease_is_judged_on_a_full_disk(
    dispatcher: Dispatcher,
    executor: FakeExecutor,
    database: Database,
    jobs: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatcher.tick()
    assert executor.started == [Assignment(jobs[0], 1)]
    executor.slots = 2
    monkeypatch.setattr(disk, "MIN_ROOM_BYTES", 10**18)
    dispatcher._clock = dispatcher._watch._clock = itertools.count(10_000, step=40).__next__
    for _ in range(8):
        dispatcher.tick()
    assert (executor.started, executor.killed) == ([Assignment(jobs[0], 1)], [])
    monkeypatch.setattr(disk, "MIN_ROOM_BYTES", 0)
    dispatcher.tick()
    assert executor.started == [Assignment(jobs[0], 1), Assignment(jobs[1], 1)]
    assert look_up(database, jobs[0]).status == JobStatus.RUNNING


def test_job_of_a_trainer_that_died_runs_again_at_once(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str]
) -> None:
    dispatcher.tick()
    executor.end(-signal.SIGKILL)
    dispatcher.tick()
    assert executor.started == [Assignment(jobs[0], 1), Assignment(jobs[0], 2)]


def test_job_that_kills_its_trainer_three_times_is_set_aside_and_the_queue_goes_on(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str]
) -> None:
    for _ in range(3):
        dispatcher.tick()
        executor.end(-signal.SIGKILL)
    dispatcher.tick()
    job = look_up(database, jobs[0])
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error["code"] == "quarantined"
    assert "its memory runs out" in job.error["message"]
    assert executor.started[-1] == Assignment(jobs[1], 1)


def test_trainer_that_ended_while_the_database_was_busy_is_accounted_for_in_the_next_round(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(lease: Lease, session: object, reason: str) -> None:
        raise BusyError("The database was in use.")

    dispatcher.tick()
    executor.end(-signal.SIGKILL)
    executor.slots = 0
    with monkeypatch.context() as patched:
        patched.setattr(Lease, "lose", busy)
        dispatcher.tick()
        dispatcher.tick()
    assert look_up(database, jobs[0]).status == JobStatus.RUNNING
    dispatcher.tick()
    job = look_up(database, jobs[0])
    assert (job.status, job.lost_attempts) == (JobStatus.QUEUED, 1)
    assert dispatcher._running == []


def test_job_that_was_deleted_as_soon_as_it_ended_is_accounted_for(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, jobs: list[str]
) -> None:
    dispatcher.tick()
    with database.write() as session:
        Lease(jobs[0], 1).cancel(session)
        delete_job(session, jobs[0])
    executor.end(0)
    dispatcher.tick()
    assert dispatcher._running == [Assignment(jobs[1], 1)]


def test_trainer_that_stopped_answering_is_ended_and_its_job_taken_back(
    settings: Settings, database: Database, executor: FakeExecutor, jobs: list[str]
) -> None:
    moments = itertools.count(0.0, 10.0)
    dispatcher = Dispatcher(settings, database, executor, Downloader(database), clock=lambda: next(moments))
    for _ in range(20):
        dispatcher.tick()
    assert executor.killed == [Assignment(jobs[0], 1)]
    assert (look_up(database, jobs[0]).status, look_up(database, jobs[0]).lost_attempts) == (JobStatus.QUEUED, 1)


def test_trainer_that_hangs_with_the_lock_of_the_database_does_not_hold_up_the_queue(
    settings: Settings, database: Database, jobs: list[str], tmp_path: Path
) -> None:
    hangs = (
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('BEGIN IMMEDIATE'); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    command = [sys.executable, "-c", hangs, str(settings.home / "studio.db")]
    executor = LocalExecutor(tmp_path / "trainer.log", command=command)
    hasty = dataclasses.replace(settings, lease_s=0.5)
    dispatcher = Dispatcher(hasty, database, executor, Downloader(database))
    try:
        deadline = time.monotonic() + 30
        while look_up(database, jobs[0]).lost_attempts == 0 and time.monotonic() < deadline:
            dispatcher._watch_at = None
            dispatcher._beat()
            dispatcher._account_for_ended()
            dispatcher._take_back_silent()
            if look_up(database, jobs[0]).attempt == 0:
                dispatcher._start_next()
            time.sleep(0.05)
    finally:
        executor.stop(timeout_s=0)
    job = look_up(database, jobs[0])
    assert (job.status, job.lost_attempts) == (JobStatus.QUEUED, 1)


def test_stopping_gives_running_jobs_back_to_the_queue(
    dispatcher: Dispatcher, executor: FakeExecutor, database: Database, settings: Settings, jobs: list[str]
) -> None:
    dispatcher.tick()
    asked_to_stop = threading.Event()
    asked_to_stop.set()
    dispatcher.run(asked_to_stop)
    assert executor.is_stopped
    job = look_up(database, jobs[0])
    assert (job.status, job.lost_attempts) == (JobStatus.QUEUED, 0)
    assert not heartbeat_file(settings).exists()


def test_heartbeat_names_what_runs(dispatcher: Dispatcher, settings: Settings, jobs: list[str]) -> None:
    dispatcher.tick()
    dispatcher._beat_at = -1000.0
    dispatcher.tick()
    assert json.loads(heartbeat_file(settings).read_text())["running"] == [f"{jobs[0]}:1"]


def test_empty_queue_keeps_a_trainer_warm(dispatcher: Dispatcher, executor: FakeExecutor) -> None:
    dispatcher.tick()
    assert executor.is_warm
    assert executor.started == []


def test_round_that_fails_does_not_end_the_role(
    dispatcher: Dispatcher, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.dispatcher.PAUSE_AFTER_FAULT_S", 0.0)
    rounds: list[int] = []
    asked_to_stop = threading.Event()

    def fail() -> None:
        rounds.append(1)
        if len(rounds) == 3:
            asked_to_stop.set()
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(dispatcher, "tick", fail)
    dispatcher.run(asked_to_stop)
    assert len(rounds) == 3


def test_download_whose_process_died_is_told(dispatcher: Dispatcher, database: Database) -> None:
    with database.write() as session:
        base_id = register(session, BaseModelRecord("a/b", BaseModelSource.HUB, DownloadState.REQUESTED)).id
    dispatcher.tick()
    child = dispatcher.downloader._child
    assert child is not None
    child.wait()
    dispatcher.tick()
    with database.read() as session:
        base = get_base_model_by_id(session, base_id)
    assert base.download_state == DownloadState.FAILED
    assert base.download_error is not None
    assert "broke off" in base.download_error


def test_dispatcher_imports_no_torch() -> None:
    code = "import sys, worker.dispatcher; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
