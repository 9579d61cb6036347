"""A table that is answered while the disk fills up: nothing is lost, and it goes on once there is room."""

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.disk import DiskFullError
from storage.jobs import retry_job
from storage.lease import Lease
from storage.migrate import migrate
from storage.queue import claim_next
from storage.schema.job import JobStatus
from storage.settings import read_settings
from tests.answering_bench import AnsweringRole, CountingRecorder, food_rows
from tests.test_faults_disk import SmallDisk
from tests.test_faults_disk import disk as disk
from tests.tiny import tiny_base_folder
from worker.answering import answerer as answerer_module
from worker.answering.attempt import AnsweringAttempt
from worker.answering.journal import Journal
from worker.answering.questions import Answer
from worker.engine.generate import GenerationRow, TokenEvent
from worker.training import full_disk
from worker.training.mandate import Mandate, Outcome
from worker.training.run import run_attempts

NUM_ROWS = 40
LONG = "soup " * 60
"""Makes answers that do not fit into what is left of the last page of a file."""

Wish = Callable[[CountingRecorder], Outcome | None]


def answering_at_once(base: Any, bank: Any, rows: Sequence[GenerationRow], end: Any) -> Iterator[list[TokenEvent]]:
    """A model that needs no time: each answer tells by its prompt's length where it belongs."""
    yield [TokenEvent(at, 1, f"{LONG}{len(row.prompt_ids)} {at}", "stop", 0.0) for at, row in enumerate(rows)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_disk, "PAUSE_S", 0.01)
    monkeypatch.setattr(answerer_module, "stream", answering_at_once)
    monkeypatch.setitem(answerer_module.MAX_BATCH_ROWS, "cpu", 7)


@pytest.fixture
def role(disk: SmallDisk, tmp_path: Path) -> Iterator[AnsweringRole]:
    """A home folder on a disk that can be filled; the base model lies elsewhere."""
    settings = read_settings({"PREFIX_STUDIO_HOME": str(disk.folder / "home")})
    settings.home.mkdir(mode=0o700)
    migrate(settings)
    database = open_database(settings)
    yield AnsweringRole(settings, database, ArtifactStore(settings), tiny_base_folder(tmp_path / "models" / "tiny"))
    database.close()


def attempt(role: AnsweringRole, wish: Wish) -> tuple[Outcome, Lease]:
    with role.database.write() as session:
        lease = claim_next(session, "test")
    assert lease is not None
    recorder = CountingRecorder(role.database, lease)
    mandate = Mandate(role.settings, role.database, role.store, recorder, lambda: wish(recorder))
    return AnsweringAttempt(mandate).run(), lease


def stage_of(recorder: CountingRecorder) -> str:
    return str(recorder._progress.get("stage"))


@pytest.mark.parametrize(("batches", "waits_for"), [(1, "the answers"), (6, "the answered table")])
def test_answering_waits_on_a_full_disk_and_goes_on_once_there_is_room(
    role: AnsweringRole, disk: SmallDisk, batches: int, waits_for: str
) -> None:
    straight = role.submit(food_rows(NUM_ROWS))
    role.attempt()
    job, told = role.submit(food_rows(NUM_ROWS)), []

    def wish(recorder: CountingRecorder) -> None:
        stage = stage_of(recorder)
        if recorder.num_batches == batches and not told:
            told.append("filled")
            disk.fill()
        elif stage.startswith("The disk is full"):
            told.append(stage)
            if len(told) == 4:
                disk.make_room()

    assert attempt(role, wish)[0] is Outcome.PUBLISHED
    assert told[1:4] == [f"The disk is full: waiting for room to keep {waits_for}"] * 3
    assert role.result(job) == role.result(straight)
    assert role.job(job).metrics["answered"] == NUM_ROWS


def test_answering_that_is_paused_on_a_full_disk_keeps_what_it_had(role: AnsweringRole, disk: SmallDisk) -> None:
    straight = role.submit(food_rows(NUM_ROWS))
    role.attempt()
    job = role.submit(food_rows(NUM_ROWS))

    def wish(recorder: CountingRecorder) -> Outcome | None:
        if recorder.num_batches == 1 and not stage_of(recorder).startswith("The disk"):
            disk.fill()
        return Outcome.RELEASED if stage_of(recorder).startswith("The disk is full") else None

    ended, lease = attempt(role, wish)
    assert ended is Outcome.RELEASED
    disk.make_room()
    role.release(lease)
    assert role.attempt()[0] is Outcome.PUBLISHED
    assert role.result(job) == role.result(straight)


def test_answering_without_room_for_too_long_fails_in_a_sentence_and_is_tried_again(
    role: AnsweringRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_disk, "WAIT_FOR_ROOM_S", 0.0)
    job = role.submit(food_rows(NUM_ROWS))
    write, calls = Journal.write, iter(range(100))

    def full(journal: Journal, answers: list[Answer]) -> None:
        if next(calls) == 2:
            raise DiskFullError("The disk is full, so nothing was kept of what was under way.")
        write(journal, answers)

    monkeypatch.setattr(Journal, "write", full)
    run_attempts(role.trainer.workplace, [role.trainer.claim()])
    failed = role.job(job)
    assert (failed.status, failed.error and failed.error["code"]) == (JobStatus.FAILED, "disk_full")
    with role.database.write() as session:
        assert retry_job(session, job).step == 14
    run_attempts(role.trainer.workplace, [role.trainer.claim()])
    assert role.job(job).status == JobStatus.SUCCEEDED
    assert len(role.result(job)) == NUM_ROWS


class TornFile:
    """Takes a part of what it is given, then has no room."""

    def __init__(self, file: Any) -> None:
        self._file, self.room = file, 10

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "no space left")
        written, self.room = self._file.write(data[: self.room]), 0
        return int(written)


def test_line_that_broke_off_on_a_full_disk_leaves_no_trace(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", {"seed": 1}, 4)
    journal.write([Answer(0, "soup", "", 2)])
    before = journal.path.read_bytes()
    whole = journal._file
    journal._file = TornFile(whole)  # type: ignore[assignment]
    with pytest.raises(DiskFullError, match="keeping the answers"):
        journal.write([Answer(1, "tea", "", 2)])
    assert journal.path.read_bytes() == before
    assert not journal.has(1)
    journal._file = whole
    journal.write([Answer(1, "tea", "", 2)])
    assert [answer and answer.text for answer in journal.read(0, 3)] == ["soup", "tea", None]
    assert len([json.dumps(line) for line in journal.path.read_text().splitlines()]) == 3
    journal.close()
