"""Several jobs in one trainer: one pass over their base, and each with its own end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.artifacts import ArtifactStore
from storage.bases.inspect import read_config
from storage.checkpoints import list_checkpoints
from storage.database import Database
from storage.jobs import pause_job, request_stop, resume_job
from storage.lease import Lease
from storage.prefixes import get_prefix
from storage.schema.job import Job, JobStatus
from storage.settings import Settings
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.engine import train as train_module
from worker.engine.events import Event, StepMetrics
from worker.engine.families import geometry
from worker.engine.prefix_file import read_prefix_file
from worker.engine.train import train_together
from worker.training import attempt as attempt_module
from worker.training import bases as bases_module
from worker.training import together as together_module
from worker.training.run import run_attempts

Act = Callable[[int, StepMetrics], None]


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


def run_all(role: Role, jobs: list[str]) -> list[Job]:
    """Claims as many jobs as these and runs them in one trainer."""
    assignments = [role.claim() for _ in jobs]
    assert {assignment.job_id for assignment in assignments} == set(jobs)
    run_attempts(role.workplace, assignments)
    return [role.job(job) for job in jobs]


def values(role: Role, job: Job) -> np.ndarray:
    """The numbers of the prefix that a job published."""
    with role.database.read() as session:
        prefix = get_prefix(session, job.prefix_id or "")
    return read_prefix_file(
        role.store.path(prefix.artifact_hash), job.method, geometry(read_config(role.folder))
    ).values


def logged(role: Role, job: str) -> str:
    return "\n".join(event.data["message"] for event in role.events(job, "log"))


def acting(monkeypatch: pytest.MonkeyPatch, act: Act) -> list[int]:
    """Lets something happen after certain steps of certain jobs; returns how many jobs each pass had, as it goes."""
    passes: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Iterator[tuple[int, Event]]:
        passes.append(len(arguments[1]))
        for index, event in train_together(*arguments, **options):
            yield index, event
            if isinstance(event, StepMetrics):
                act(index, event)

    monkeypatch.setattr(together_module, "train_together", watched)
    return passes


def heard(role: Role, *jobs: str) -> None:
    """Waits until the heartbeats of jobs must have seen what their users asked for."""
    threading.Event().wait(1.0)


def test_each_job_publishes_what_it_would_alone(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "learning_rate": 0.02, "num_virtual_tokens": 6}]
    alone = []
    for recipe in recipes:
        role.submit(**recipe)
        alone.append(role.run())
    loaded = []
    load = bases_module.load_task_base
    monkeypatch.setattr(bases_module, "load_task_base", lambda task: loaded.append(task) or load(task))
    passes = acting(monkeypatch, lambda index, event: None)
    together = run_all(role, [role.submit(**recipe) for recipe in recipes])
    assert (passes, len(loaded)) == ([2], 1)
    for one, other in zip(alone, together, strict=True):
        assert (other.status, other.error) == (JobStatus.SUCCEEDED, None)
        np.testing.assert_allclose(values(role, other), values(role, one), atol=1e-4, rtol=0)
        assert other.metrics["validation_loss"] == pytest.approx(one.metrics["validation_loss"], abs=1e-4)
        assert other.metrics["jobs_in_pass"] == 2
        assert "evaluation" in other.metrics
        steps = [event.step for event in role.events(other.id, "step")]
        assert steps == list(range(1, 9))


def test_one_that_fails_leaves_the_others_alone(role: Role) -> None:
    broken, good = role.submit(num_virtual_tokens=254), role.submit()
    failed, done = run_all(role, [broken, good])
    assert failed.status == JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "context_overflow"
    assert done.status == JobStatus.SUCCEEDED


def test_wishes_of_one_job_are_not_those_of_the_others(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"max_steps": 60, "eval_every": 30}
    discarded, paused, kept, other = (role.submit(**long) for _ in range(4))

    def wish(index: int, event: StepMetrics) -> None:
        if (index, event.step) == (3, 5):
            with role.database.write() as session:
                request_stop(session, discarded, keep=False)
                pause_job(session, paused)
                request_stop(session, kept, keep=True)
            heard(role)

    acting(monkeypatch, wish)
    ends = run_all(role, [discarded, paused, kept, other])
    assert [job.status for job in ends] == [
        JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.SUCCEEDED,
    ]  # fmt: skip
    assert ends[2].stopped_early
    assert (ends[2].step, ends[3].step) == (6, 60)
    assert 5 <= ends[1].step <= 7
    with role.database.write() as session:
        resume_job(session, paused)
    resumed = role.run()
    assert resumed.status == JobStatus.SUCCEEDED
    np.testing.assert_allclose(values(role, resumed), values(role, ends[3]), atol=1e-4, rtol=0)


def test_pass_that_breaks_off_lets_each_job_go_on_by_itself(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.submit()
    alone = role.run()
    jobs = [role.submit(), role.submit()]
    real = train_module._one_pass
    calls: list[int] = []

    def breaks_for_two(updater: Any, requests: Any) -> Any:
        calls.append(len(requests))
        if len(requests) == 2 and len(calls) == 6:
            raise RuntimeError("a kernel that was never seen before")
        return real(updater, requests)

    monkeypatch.setattr(train_module, "_one_pass", breaks_for_two)
    ends = run_all(role, jobs)
    assert [job.status for job in ends] == [JobStatus.SUCCEEDED] * 2
    for job in ends:
        assert "goes on by itself" in logged(role, job.id)
        np.testing.assert_allclose(values(role, job), values(role, alone), atol=1e-4, rtol=0)
    # It went on from the evaluation after the fourth step.
    assert [event.step for event in role.events(jobs[0], "step")] == [1, 2, 3, 4, 5, 5, 6, 7, 8]


def test_job_is_discarded_while_another_one_answers_held_out_rows(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = role.submit(max_steps=4), role.submit(max_steps=60, eval_every=30)
    real = attempt_module.compare
    seen: list[JobStatus] = []

    def slow(*arguments: Any, **options: Any) -> Any:
        with role.database.write() as session:
            request_stop(session, second, keep=False)
        heard(role)
        assert not options["is_asked_to_end"]()
        seen.append(role.job(second).status)
        return real(*arguments, **options)

    monkeypatch.setattr(attempt_module, "compare", slow)
    ends = run_all(role, [first, second])
    assert seen == [JobStatus.CANCELLED]
    assert [job.status for job in ends] == [JobStatus.SUCCEEDED, JobStatus.CANCELLED]


def test_terminated_trainer_leaves_every_job_queued_with_its_checkpoint(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(index: int, event: StepMetrics) -> None:
        if event.step == 10:
            role.terminated.set()

    acting(monkeypatch, terminate)
    jobs = [role.submit(max_steps=60, eval_every=30) for _ in range(2)]
    left = run_all(role, jobs)
    assert [(job.status, job.lost_attempts) for job in left] == [(JobStatus.QUEUED, 0)] * 2
    assert all(len(list(role.store.run_folder(job, 1).glob("checkpoint-*"))) == 1 for job in jobs)


def test_jobs_of_several_bases_run_one_base_after_the_other(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = acting(monkeypatch, lambda index, event: None)
    ends = run_all(role, [role.submit(), role.submit(precision="float32"), role.submit()])
    assert [job.status for job in ends] == [JobStatus.SUCCEEDED] * 3
    assert passes == [2, 1]


def test_checkpoint_of_other_settings_is_not_mixed_in(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminate(index: int, event: StepMetrics) -> None:
        if event.step == 6:
            role.terminated.set()

    with monkeypatch.context() as patched:
        acting(patched, terminate)
        (left,) = run_all(role, [role.submit()])
    assert left.status == JobStatus.QUEUED
    with role.database.write() as session:
        job = session.get(Job, left.id)
        assert job is not None
        job.recipe = {**job.recipe, "key_rate_factor": 0.5}
    role.terminated.clear()
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED
    assert "begins anew: it was made with other settings (key_rate_factor)" in logged(role, done.id)
    steps = [event.step for event in role.events(done.id, "step") if event.attempt == 2]
    assert steps == list(range(1, 9))


def test_killed_trainer_of_several_jobs_loses_none_of_them(role: Role) -> None:
    role.submit(max_steps=40, eval_every=10)
    alone = role.run()
    jobs = [role.submit(max_steps=40, eval_every=10) for _ in range(2)]
    leases = [role.claim() for _ in jobs]
    command = [sys.executable, "-m", "worker.trainer", "--assign", *map(str, leases)]
    environment = {
        **os.environ,
        "PREFIX_STUDIO_HOME": str(role.workplace.settings.home),
        "PREFIX_STUDIO_CHECKPOINT_EVERY_S": "0.001",
    }
    trainer = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=environment)
    while trainer.poll() is None and not all(checkpointed(role, job) for job in jobs):
        time.sleep(0.005)
    trainer.kill()
    assert trainer.wait() == -signal.SIGKILL
    for lease in leases:
        with role.database.write() as session:
            Lease(lease.job_id, lease.attempt).lose(session, "a test killed it")
    for _ in jobs:
        done = role.run()
        assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
        assert "Going on from step" in logged(role, done.id)
        np.testing.assert_allclose(values(role, done), values(role, alone), atol=1e-4, rtol=0)


def checkpointed(role: Role, job: str) -> bool:
    with role.database.read() as session:
        return bool(list_checkpoints(session, job))
