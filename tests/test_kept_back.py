"""What a job tells while nothing can be written: kept back, and told with its end at the latest."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database, Session
from storage.disk import disk_full
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.answering_bench import AnsweringRole, food_rows
from tests.stored import add_job, claim
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.training import attempt as attempt_module
from worker.training import full_disk
from worker.training import recorder as recorder_module
from worker.training.publish import publish
from worker.training.recorder import Recorder
from worker.training.run import run_attempts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_base_folder(tmp_path / "models" / "tiny")


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, folder: Path) -> Role:
    return Role(settings, database, store, folder)


@pytest.fixture
def _nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is full until the job ends."""
    monkeypatch.setattr(Recorder, "flush", lambda recorder: None)


@pytest.mark.usefixtures("_nothing_can_be_told")
def test_publication_tells_every_step_that_was_kept_back(role: Role) -> None:
    role.submit()
    job = role.run()
    assert (job.status, job.step) == (JobStatus.SUCCEEDED, 8)
    assert [event.step for event in role.events(job.id, "step")] == list(range(1, 9))
    assert [event.data["status"] for event in role.events(job.id, "state")] == ["queued", "running", "succeeded"]


@pytest.mark.usefixtures("_nothing_can_be_told")
def test_answered_table_tells_every_batch_that_was_kept_back(
    settings: Settings, database: Database, store: ArtifactStore, folder: Path
) -> None:
    role = AnsweringRole(settings, database, store, folder)
    job = role.submit(food_rows(70))
    role.attempt()
    assert (role.job(job).status, role.job(job).step) == (JobStatus.SUCCEEDED, 70)
    assert [event.step for event in role.trainer.events(job, "step")][-1] == 70


@pytest.mark.usefixtures("_nothing_can_be_told")
def test_failure_tells_its_traceback_that_was_kept_back(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(attempt_module, "publish", breaking)
    role.submit()
    job = role.run()
    assert job.status == JobStatus.FAILED
    assert any("RuntimeError: a bug" in event.data["message"] for event in role.events(job.id, "log"))


def test_job_that_waited_for_room_is_not_left_as_waiting(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def publishing_once_there_is_room(database: Database, *others: object) -> str:
        told.append(role.job(job_id).stage)
        if len(told) < 3:
            raise disk_full("writing the prefix")
        return publish(database, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(attempt_module, "publish", publishing_once_there_is_room)
    monkeypatch.setattr(full_disk, "PAUSE_S", 0.0)
    job_id = role.submit()
    run_attempts(role.workplace, [role.claim()])
    assert role.job(job_id).status == JobStatus.SUCCEEDED
    assert told == ["Publishing the prefix"] * 3
    assert role.job(job_id).stage == "Publishing the prefix"


@dataclass
class SlowDisk:
    """A clock, and a database of which each write takes so many of its seconds."""

    database: Database
    write_s: float
    now: float = 0.0
    writes: int = 0

    def monotonic(self) -> float:
        return self.now

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self.database.write() as session:
            yield session
        self.now += self.write_s
        self.writes += 1


@pytest.mark.parametrize(("write_s", "pause_s"), [(0.001, 0.4), (0.012, 1.2), (5.0, 2.0)])
def test_slower_writes_are_made_less_often(
    database: Database, monkeypatch: pytest.MonkeyPatch, write_s: float, pause_s: float
) -> None:
    with database.write() as session:
        add_job(session)
    disk = SlowDisk(database, write_s)
    monkeypatch.setattr(recorder_module, "time", disk)
    recorder = Recorder(disk, claim(database))  # type: ignore[arg-type]
    recorder.stage("Training")
    disk.now += pause_s - 0.01
    recorder.add("step", {"loss": 2.0}, 1)
    assert disk.writes == 1
    disk.now += 0.02
    recorder.add("step", {"loss": 1.0}, 2)
    assert disk.writes == 2
