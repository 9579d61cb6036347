"""The trainer role on a tiny model: from a claimed job to a published prefix, and every other end of a job."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from storage.artifacts import ArtifactStore
from storage.bases.inspect import read_config
from storage.database import Database
from storage.disk import DiskFullError
from storage.errors import BusyError, StudioError
from storage.jobs import pause_job, request_stop, resume_job, retry_job
from storage.lease import Lease
from storage.prefixes import get_prefix, list_prefixes
from storage.queue import claim_next
from storage.schema.job import JobStatus
from storage.settings import Settings
from storage.snapshots import list_snapshots
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.engine import update
from worker.engine.events import Event, StepMetrics
from worker.engine.families import geometry
from worker.engine.prefix_file import read_prefix_file
from worker.engine.train import train_together
from worker.training import attempt as attempt_module
from worker.training import bases as bases_module
from worker.training import checkpoints as checkpoints_module
from worker.training import recorder as recorder_module
from worker.training import tenure as tenure_module
from worker.training import together as together_module
from worker.training.assignment import Assignment
from worker.training.heartbeat import LOOK_S


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


def test_job_succeeds_and_its_prefix_can_be_read(role: Role) -> None:
    job = role.submit()
    done = role.run()
    assert (done.status, done.step, done.error) == (JobStatus.SUCCEEDED, 8, None)
    with role.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    measured = geometry(read_config(role.folder))
    array = read_prefix_file(role.store.path(prefix.artifact_hash), "prefix-tuning", measured)
    assert array.num_virtual_tokens == prefix.num_virtual_tokens == 4
    assert prefix.num_parameters == measured.prefix_parameters("prefix-tuning", 4)
    assert (prefix.name, prefix.job_id, prefix.rendering["kind"]) == ("Food", job, "plain")
    assert prefix.recipe["max_steps"] == 8


def test_metrics_hold_every_baseline_and_the_proof_that_the_base_is_unchanged(role: Role) -> None:
    role.submit(max_steps=24, learning_rate=0.05)
    metrics = role.run().metrics
    assert metrics["base_unchanged"] is True
    assert metrics["validation_loss"] < metrics["base_loss"]
    for name in ("instruction_loss", "memory_bytes", "tokens_per_second", "train_s", "train_tokens", "num_parameters"):
        assert metrics[name] > 0, name
    samples = metrics["samples"]
    assert all(set(row) == {"prompt", "expected", "base", "prefix"} for row in samples)
    assert 1 <= len(samples) == len({row["prompt"] for row in samples}) <= 3


def test_every_step_and_look_is_an_event(role: Role) -> None:
    job = role.submit()
    role.run()
    assert [event.step for event in role.events(job, "step")] == list(range(1, 9))
    assert [event.step for event in role.events(job, "evaluated")] == [0, 4, 8]
    states = [event.data["status"] for event in role.events(job, "state")]
    assert states == ["queued", "running", "succeeded"]
    assert "is loaded in" in role.events(job, "log")[0].data["message"]


def test_checkpoints_are_gone_once_the_prefix_is_kept(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.write_every_checkpoint()
    job = role.submit()
    role.run()
    assert list(role.store.run_folder(job, 1).glob("checkpoint-*")) == []


def test_stop_and_keep_publishes_the_best_prefix_so_far(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: request_stop(s, i, keep=True), job)
    done = role.run()
    user.join()
    assert (done.status, done.stopped_early) == (JobStatus.SUCCEEDED, True)
    assert 0 < done.step < 5000
    assert done.prefix_id is not None


def test_discard_ends_within_a_step_and_keeps_nothing(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: request_stop(s, i, keep=False), job)
    done = role.run()
    user.join()
    assert done.status == JobStatus.CANCELLED
    with role.database.read() as session:
        assert list_prefixes(session) == []


def pause_in_training(role: Role, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the job, and pauses it after its tenth step, however fast the steps are."""

    def paused(*arguments: Any, **options: Any) -> Iterator[tuple[int, Event]]:
        for index, event in train_together(*arguments, **options):
            yield index, event
            if isinstance(event, StepMetrics) and event.step == 10:
                with role.database.write() as session:
                    pause_job(session, job)
                time.sleep(3 * LOOK_S)  # until the heartbeat has seen it

    with monkeypatch.context() as patched:
        patched.setattr(together_module, "train_together", paused)
        assert role.run().status == JobStatus.PAUSED


def test_discard_at_the_moment_of_publication_holds(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = role.submit()
    publish = attempt_module.publish

    def publish_too_late(*told: Any) -> str:
        with role.database.write() as session:
            request_stop(session, job_id, keep=False)
        return publish(*told)

    monkeypatch.setattr(attempt_module, "publish", publish_too_late)
    job = role.run()
    assert (job.status, job.error, job.prefix_id) == (JobStatus.CANCELLED, None, None)
    assert list(role.store.run_folder(job_id, 1).glob("*.safetensors")) == []
    with role.database.read() as session:
        assert (list_prefixes(session), list_snapshots(session, job_id)) == ([], [])


def test_pause_and_resume_give_the_prefix_of_an_uninterrupted_run(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.submit(max_steps=150, eval_every=50)
    straight = role.run()
    job = role.submit(max_steps=150, eval_every=50)
    pause_in_training(role, job, monkeypatch)
    paused_at, paused_s = role.job(job).step, role.job(job).metrics["train_s"]
    assert 10 <= paused_at < 150
    with role.database.write() as session:
        resume_job(session, job)
    resumed = role.run()
    assert resumed.status == JobStatus.SUCCEEDED
    steps = [event.step for event in role.events(job, "step") if event.attempt == 2]
    assert steps == list(range(paused_at + 1, 151))
    with role.database.read() as session:
        first, second = (get_prefix(session, each.prefix_id or "") for each in (straight, resumed))
    assert first.artifact_hash == second.artifact_hash
    assert resumed.metrics["train_tokens"] == straight.metrics["train_tokens"]
    assert resumed.metrics["train_s"] > paused_s > 0


def alter_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors", {"format": "pt"})


def test_resuming_on_other_weights_is_refused_until_the_old_ones_are_back(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = role.submit(max_steps=150, eval_every=50)
    pause_in_training(role, job, monkeypatch)
    weights = role.folder / "model.safetensors"
    old = weights.read_bytes()
    alter_a_weight(role.folder)
    with role.database.write() as session:
        resume_job(session, job)
    refused = role.run()
    assert (refused.status, refused.prefix_id) == (JobStatus.FAILED, None)
    assert refused.error is not None
    assert refused.error["code"] == "conflict"
    assert "weights have changed since this training began" in refused.error["message"]
    assert refused.error["message"].endswith("Put the old ones back, or run a copy.")
    weights.write_bytes(old)
    with role.database.write() as session:
        retry_job(session, job)
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED
    assert [event.step for event in role.events(job, "step")] == list(range(1, 151))


def test_weights_that_change_between_jobs_hinder_no_new_training(role: Role) -> None:
    role.submit()
    role.run()
    alter_a_weight(role.folder)
    role.submit()
    assert role.run().status == JobStatus.SUCCEEDED


def test_prefix_of_a_base_that_changed_in_memory_is_not_published(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(["a" * 64, "b" * 64])
    monkeypatch.setattr(attempt_module, "weights_hash", lambda model: next(hashes))
    role.submit()
    done = role.run()
    assert (done.status, done.prefix_id) == (JobStatus.FAILED, None)
    assert done.error is not None
    assert "changed in memory" in done.error["message"]


FAULTS = [BusyError("The database was in use."), DiskFullError("The disk is full.")]


@pytest.mark.parametrize("fault", FAULTS, ids=["busy", "full"])
def test_checkpoint_that_cannot_be_written_down_fails_no_training(
    role: Role, monkeypatch: pytest.MonkeyPatch, fault: StudioError
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise fault

    role.write_every_checkpoint()
    monkeypatch.setattr(checkpoints_module, "add_checkpoint", refuse)
    job = role.submit()
    done = role.run()
    assert (done.status, done.error) == (JobStatus.SUCCEEDED, None)
    warnings = [event.data["message"] for event in role.events(job, "log") if event.data["level"] == "warning"]
    assert f"This checkpoint is left out: {fault.message}" in warnings


@pytest.mark.parametrize("fault", FAULTS, ids=["busy", "full"])
def test_pause_holds_even_where_its_checkpoint_cannot_be_written_down(
    role: Role, monkeypatch: pytest.MonkeyPatch, fault: StudioError
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise fault

    job = role.submit(max_steps=150, eval_every=50)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "add_checkpoint", refuse)
        pause_in_training(role, job, patched)
    assert list(role.store.run_folder(job, 1).glob("checkpoint-*")) == []
    with role.database.write() as session:
        resume_job(session, job)
    assert role.run().status == JobStatus.SUCCEEDED


def test_terminated_trainer_releases_its_job_even_without_a_checkpoint(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise BusyError("The database was in use.")

    monkeypatch.setattr(checkpoints_module, "add_checkpoint", refuse)
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: role.terminated.set(), job)
    left = role.run()
    user.join()
    assert (left.status, left.lost_attempts) == (JobStatus.QUEUED, 0)


def test_no_checkpoint_stands_ahead_of_the_curve(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.write_every_checkpoint()
    for name in ("FLUSH_S", "MAX_FLUSH_S"):
        monkeypatch.setattr(recorder_module, name, 1000.0)
    job_id, write, seen = role.submit(), checkpoints_module.Checkpoints.write, []

    def watched(self: Any, state: Any, fingerprint: str) -> int:
        seen.append((state.progress.step, [event.step for event in role.events(job_id, "step")]))
        return write(self, state, fingerprint)

    monkeypatch.setattr(checkpoints_module.Checkpoints, "write", watched)
    assert role.run().status == JobStatus.SUCCEEDED
    assert seen
    assert all(told == list(range(1, step + 1)) for step, told in seen)


def test_terminated_trainer_leaves_a_checkpoint_and_a_queued_job(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: role.terminated.set(), job)
    left = role.run()
    user.join()
    assert (left.status, left.lost_attempts) == (JobStatus.QUEUED, 0)
    assert len(list(role.store.run_folder(job, 1).glob("checkpoint-*"))) == 1


def test_damaged_checkpoint_is_passed_over_for_an_older_one(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    role.write_every_checkpoint()
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 3, lambda s, i: role.terminated.set(), job)
    role.run()
    user.join()
    older, latest = sorted(role.store.run_folder(job, 1).glob("checkpoint-*"))
    data = bytearray(latest.read_bytes())
    data[-10] ^= 1
    latest.write_bytes(bytes(data))
    role.terminated.clear()

    def steps_of_second() -> list[int]:
        return [event.step or 0 for event in role.events(job, "step") if event.attempt == 2]

    user = role.when(lambda now: bool(steps_of_second()), lambda s, i: request_stop(s, i, keep=False), job)
    role.run()
    user.join()
    assert steps_of_second()[0] == int(older.stem.rpartition("-")[2]) + 1


def test_lost_lease_ends_the_attempt_without_another_write(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=1000)
    user = role.when(lambda now: now.step > 0, lambda s, i: Lease(i, 1).lose(s, "a test took it"), job)
    left = role.run()
    user.join()
    assert left.status == JobStatus.QUEUED
    with role.database.write() as session:
        taken = claim_next(session, "other")
    assert taken is not None
    assert taken.attempt == 2


def test_loss_that_is_no_number_publishes_nothing(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = update.target_nll
    monkeypatch.setattr(update, "target_nll", lambda *told: losses(*told) * float("nan"))
    role.submit()
    job = role.run()
    assert (job.status, job.prefix_id) == (JobStatus.FAILED, None)
    assert job.error is not None
    assert job.error["code"] == "diverged"
    assert "stopped being a number" in job.error["message"]
    with role.database.read() as session:
        assert list_prefixes(session) == []


def test_rows_longer_than_the_context_fail_with_a_sentence(role: Role) -> None:
    job = role.submit(num_virtual_tokens=254)
    done = role.run()
    assert done.status == JobStatus.FAILED
    assert done.error is not None
    assert done.error["code"] == "context_overflow"
    assert "fits into the model's context" in done.error["message"]
    assert "Traceback" in role.events(job, "log")[-1].data["message"]


def test_unforeseen_error_is_a_sentence_in_the_job_and_a_traceback_in_its_log(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a tensor of the wrong shape")

    monkeypatch.setattr(together_module, "train_together", broken)
    job = role.submit()
    done = role.run()
    assert done.error == {"code": "unexpected", "message": tenure_module.UNEXPECTED}
    assert "a tensor of the wrong shape" in role.events(job, "log")[-1].data["message"]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 9 B")]
)
def test_memory_that_runs_out_outside_an_update_is_told_as_such(
    role: Role, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(bases_module, "load_task_base", broken)
    role.submit()
    assert role.run().error == {"code": "out_of_memory", "message": tenure_module.OUT_OF_MEMORY}


def test_missing_base_folder_fails_with_its_remedy(role: Role) -> None:
    role.submit()
    role.folder.rename(role.folder.with_name("elsewhere"))
    done = role.run()
    assert done.error is not None
    assert "no longer on this machine" in done.error["message"]


def test_prompt_tuning_runs_through_the_same_role(role: Role) -> None:
    role.submit(method="prompt-tuning")
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED, json.dumps(done.error)
    with role.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    array = read_prefix_file(role.store.path(prefix.artifact_hash), "prompt-tuning", geometry(read_config(role.folder)))
    assert array.values.shape[0] == 4
    assert np.isfinite(array.values).all()


@pytest.mark.parametrize("text", ["", "job", "job:", "job:x", "../x:1", "a:1 b:2"])
def test_assignment_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected JOB:ATTEMPT"):
        Assignment.parse(text)


def test_trainer_without_a_job_reports_ready_and_ends_with_its_pipe(settings: Settings) -> None:
    command = [sys.executable, "-m", "worker.trainer"]
    environment = {**os.environ, "PREFIX_STUDIO_HOME": str(settings.home)}
    finished = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, input="", capture_output=True, text=True, timeout=120
    )
    assert (finished.returncode, finished.stdout) == (0, "ready\n")


def test_process_takes_its_job_from_the_line_that_it_waits_for(role: Role, settings: Settings) -> None:
    role.submit()
    assignment = role.claim()
    command = [sys.executable, "-m", "worker.trainer"]
    environment = {**os.environ, "PREFIX_STUDIO_HOME": str(settings.home)}
    finished = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, input=f"{assignment}\n", text=True, timeout=120,
        capture_output=True,
    )  # fmt: skip
    assert finished.returncode == 0
    assert role.job(assignment.job_id).status == JobStatus.SUCCEEDED
    log = role.store.run_folder(assignment.job_id, 1) / "trainer.log"
    assert assignment.job_id in log.read_text()
