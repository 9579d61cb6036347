"""Answering jobs in real trainer processes that are killed and asked to end, and on tables of many rows."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.jobs import retry_job
from storage.lease import Lease
from storage.queue import claim_next
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.answering_bench import AnsweringRole, food_rows
from tests.tiny import tiny_base_folder
from worker.answering import answerer as answerer_module
from worker.engine.generate import GenerationRow, TokenEvent
from worker.training.run import run_attempts

ROOT = Path(__file__).parents[1]
NUM_ROWS = 640
PATIENCE_S = 60.0


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> AnsweringRole:
    return AnsweringRole(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


@pytest.fixture
def trainers(role: AnsweringRole) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two trainers that wait for a job, imports done; each answers a part of a table and halts until it is ended."""
    environment = {**os.environ, "PREFIX_STUDIO_HOME": str(role.settings.home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.halting_trainer"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    started = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(2)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(role: AnsweringRole, trainer: subprocess.Popen[bytes]) -> Lease:
    """Claims the next job and tells a waiting trainer to run it."""
    with role.database.write() as session:
        lease = claim_next(session, "test")
    assert lease is not None
    assert trainer.stdin is not None
    trainer.stdin.write(f"{lease.job_id}:{lease.attempt}\n".encode())
    trainer.stdin.flush()
    return lease


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.005)


def test_killed_and_ended_trainers_give_the_table_of_an_uninterrupted_run(
    role: AnsweringRole, trainers: list[subprocess.Popen[bytes]]
) -> None:
    straight = role.submit(food_rows(NUM_ROWS))
    role.attempt()
    job = role.submit(food_rows(NUM_ROWS))

    killed = start(role, trainers[0])
    wait_until(lambda: role.job(job).step > 0)
    trainers[0].send_signal(signal.SIGKILL)
    trainers[0].wait()
    with role.database.write() as session:
        assert killed.lose(session, "its process was killed") == JobStatus.QUEUED
    kept = role.job(job).step
    assert 0 < kept < NUM_ROWS

    start(role, trainers[1])
    wait_until(lambda: role.job(job).step > kept)
    trainers[1].send_signal(signal.SIGTERM)
    assert trainers[1].wait(PATIENCE_S) == 0
    given_back = role.job(job)
    assert (given_back.status, given_back.attempt) == (JobStatus.QUEUED, 2)
    assert kept < given_back.step < NUM_ROWS

    run_attempts(role.trainer.workplace, [role.trainer.claim()])
    done = role.job(job)
    assert (done.status, done.attempt, done.step) == (JobStatus.SUCCEEDED, 3, NUM_ROWS)
    assert role.result(job) == role.result(straight)


def test_failure_is_told_in_a_sentence_and_retried_from_where_it_was(
    role: AnsweringRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = role.submit(food_rows(100))
    calls = iter(range(10))
    stream = answerer_module.stream

    def breaking(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("a bug")
        return stream(*arguments)

    monkeypatch.setattr(answerer_module, "stream", breaking)
    run_attempts(role.trainer.workplace, [role.trainer.claim()])
    failed = role.job(job)
    assert (failed.status, failed.error and failed.error["code"]) == (JobStatus.FAILED, "unexpected")
    with role.database.write() as session:
        assert 0 < retry_job(session, job).step < 100
    run_attempts(role.trainer.workplace, [role.trainer.claim()])
    assert role.job(job).status == JobStatus.SUCCEEDED
    assert len(role.result(job)) == 100


def answering_at_once(base: Any, bank: Any, rows: Sequence[GenerationRow], end: Any) -> Iterator[list[TokenEvent]]:
    """A model that needs no time: one word for each row."""
    yield [TokenEvent(row, 1, f"word {row % 3}", "stop", 0.0) for row in range(len(rows))]


def peak_bytes(role: AnsweringRole, num_rows: int) -> int:
    role.submit(food_rows(num_rows))
    tracemalloc.start()
    role.attempt()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows(role: AnsweringRole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answerer_module, "stream", answering_at_once)
    peak_bytes(role, 10)
    few, many = peak_bytes(role, 2500), peak_bytes(role, 10_000)
    # One number a row, and what a part of the table takes: the same however many parts there are.
    assert many - few < 16 * 7500 + 500_000
