"""The stage of an attempt that compares: what it keeps, on which rows, and every way in which it can be ended."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.datasets import create_dataset
from storage.jobs import pause_job, request_stop, resume_job
from storage.prefixes import get_prefix, list_prefixes
from storage.schema.job import Job, JobStatus
from storage.settings import Settings
from storage.tables.table import StoredTable
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.training import attempt as attempt_module
from worker.training import comparison
from worker.training.comparison import compare

PLACES = {"train": 24, "validation": 9, "test": 6}


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


def give_parts(role: Role, *parts: str) -> None:
    """A dataset with parts of its own, no prompt twice."""
    blobs = {}
    for part in parts:
        foods = [f"{part} soup {index}" for index in range(PLACES[part])]
        path = role.folder.parent / f"{part}.parquet"
        pq.write_table(pa.table({"food": foods, "text": [f"A place for {food}." for food in foods]}), path)
        blobs[part] = role.store.put_file(path)
    counts = {part: PLACES[part] for part in parts}
    table = StoredTable(blobs, ["food", "text"], counts, 900, "1" * 64, {})
    mapping = {
        "template": "food: {food}", "target": "text", "instruction": "Say what the place serves.",
        "validation_fraction": 0.0, "seed": 0, "rendering": "auto",
    }  # fmt: skip
    with role.database.write() as session:
        role.version_id = create_dataset(session, "soups.csv", table, mapping, [])[1].id


def asked_while_comparing(role: Role, monkeypatch: pytest.MonkeyPatch, act: Callable[[Any, str], Any], job: str) -> Job:
    """Runs the job; its user asks for something once the comparison has begun, and it is heard there."""

    def slow(*arguments: Any, is_asked_to_end: Callable[[], bool], **options: Any) -> dict[str, Any]:
        with role.database.write() as session:
            act(session, job)
        until = time.monotonic() + 10
        while not is_asked_to_end() and time.monotonic() < until:
            time.sleep(0.01)
        return compare(*arguments, is_asked_to_end=is_asked_to_end, **options)

    with monkeypatch.context() as patched:
        patched.setattr(attempt_module, "compare", slow)
        return role.run()


def test_evaluation_is_kept_with_the_job_and_the_prefix(role: Role) -> None:
    give_parts(role, "train", "validation")
    role.submit()
    done = role.run()
    evaluation = done.metrics["evaluation"]
    assert (evaluation["part"], evaluation["chose_checkpoint"]) == ("validation", True)
    assert (evaluation["num_rows"], evaluation["num_held_out"], evaluation["ended"]) == (9, 9, "complete")
    assert list(evaluation["arms"]) == ["base", "instruction", "few-shot", "prefix"]
    assert evaluation["verdicts"]["instruction"]["tokens_saved"] > 0
    assert done.metrics["few_shot_loss"] > 0
    with role.database.read() as session:
        assert get_prefix(session, done.prefix_id or "").metrics["evaluation"] == evaluation


def test_a_test_part_goes_before_the_rows_that_chose_the_prefix(role: Role) -> None:
    give_parts(role, "train", "validation", "test")
    role.submit()
    evaluation = role.run().metrics["evaluation"]
    assert (evaluation["part"], evaluation["chose_checkpoint"], evaluation["num_rows"]) == ("test", False, 6)


def test_without_held_out_rows_the_reason_stands_there(role: Role) -> None:
    give_parts(role, "train")
    role.submit()
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED
    assert done.metrics["evaluation"]["reason"] == comparison.NO_ROWS


def test_comparison_that_fails_takes_no_training_with_it(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(comparison, "draw_questions", broken)
    role.submit()
    done = role.run()
    assert (done.status, done.metrics["evaluation"]["num_rows"]) == (JobStatus.SUCCEEDED, 0)
    assert "the device is gone" in done.metrics["evaluation"]["reason"]


def test_discard_while_comparing_keeps_nothing(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    job = role.submit()
    done = asked_while_comparing(role, monkeypatch, lambda s, i: request_stop(s, i, keep=False), job)
    assert done.status == JobStatus.CANCELLED
    with role.database.read() as session:
        assert list_prefixes(session) == []


def test_stop_and_keep_while_comparing_publishes_at_once(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    job = role.submit()
    done = asked_while_comparing(role, monkeypatch, lambda s, i: request_stop(s, i, keep=True), job)
    assert done.status == JobStatus.SUCCEEDED
    assert done.metrics["evaluation"]["reason"] == comparison.ENDED_AT_ONCE


def test_pause_while_comparing_trains_no_step_again(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    job = role.submit()
    paused = asked_while_comparing(role, monkeypatch, pause_job, job)
    assert paused.status == JobStatus.PAUSED
    with role.database.write() as session:
        resume_job(session, job)
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED
    assert [event.step for event in role.events(job, "step") if event.attempt == 2] == []
    assert done.metrics["evaluation"]["num_rows"] > 0


def test_terminated_trainer_leaves_the_trained_prefix_to_the_next_attempt(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = role.submit()
    left = asked_while_comparing(role, monkeypatch, lambda _session, _job: role.terminated.set(), job)
    assert left.status == JobStatus.QUEUED
    role.terminated.clear()
    assert role.run().status == JobStatus.SUCCEEDED
    assert [event.step for event in role.events(job, "step") if event.attempt == 2] == []


def test_a_training_that_was_stopped_early_is_still_compared(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: request_stop(s, i, keep=True), job)
    done = role.run()
    user.join()
    assert done.stopped_early
    assert done.metrics["evaluation"]["num_rows"] > 0
