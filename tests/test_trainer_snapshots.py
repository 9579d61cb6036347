"""The trainer keeps the prefix of every evaluation, and answers held-out prompts with it."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from storage import room
from storage.artifacts import ArtifactStore
from storage.bases.inspect import read_config
from storage.database import Database
from storage.disk import DiskFullError
from storage.jobs import request_stop, resume_job
from storage.prefixes import get_prefix
from storage.schema.job import JobStatus
from storage.schema.snapshot import Snapshot
from storage.settings import Settings
from storage.snapshots import MAX_SNAPSHOTS, list_snapshots
from tests.test_trainer_role import pause_in_training
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.engine.automatic import resolve
from worker.engine.base import LoadedBase, load_base
from worker.engine.events import Checkpointed
from worker.engine.example import Example
from worker.engine.families import geometry
from worker.engine.memory import MOST_SNAPSHOTS, estimate_disk_bytes
from worker.engine.prefix_file import PrefixArray, read_prefix_file
from worker.engine.prompt_tuning import load_bank
from worker.engine.recipe import Method, Recipe, Reparameterisation
from worker.engine.rendering import Rendering
from worker.engine.train import train
from worker.training import samples as samples_module
from worker.training.samples import CUT, Samples

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


def snapshots(role: Role, job: str) -> list[Snapshot]:
    with role.database.read() as session:
        return list_snapshots(session, job)


def values(role: Role, artifact_hash: str) -> np.ndarray:
    measured = geometry(read_config(role.folder))
    return read_prefix_file(role.store.path(artifact_hash), "prefix-tuning", measured).values


def test_every_evaluation_leaves_its_prefix_and_answers(role: Role) -> None:
    job = role.submit()
    done = role.run()
    kept = snapshots(role, job)
    evaluated = {event.step: event.data["loss"] for event in role.events(job, "evaluated")}
    assert {each.step: each.validation_loss for each in kept} == evaluated
    assert [each.step for each in kept] == [0, 4, 8]
    answered = [event.step for event in role.events(job, "samples")]
    assert answered == [0, 4, 8, done.metrics["best_step"]]
    assert {(each.num_virtual_tokens, each.rendering["kind"]) for each in kept} == {(4, "plain")}
    assert not np.array_equal(values(role, kept[0].artifact_hash), values(role, kept[1].artifact_hash))


def test_published_prefix_is_its_own_snapshot_and_the_others_are_rounded(role: Role) -> None:
    job = role.submit()
    done = role.run()
    with role.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    by_step = {each.step: each for each in snapshots(role, job)}
    best = by_step.pop(done.metrics["best_step"])
    assert (best.artifact_hash, best.size_bytes) == (prefix.artifact_hash, prefix.size_bytes)
    assert all(each.size_bytes < 0.7 * prefix.size_bytes for each in by_step.values())
    assert all(role.store.size(each.artifact_hash) == each.size_bytes for each in by_step.values())


@pytest.mark.parametrize("recipe", [{}, {"learning_rate": None}, {"method": "prefix-tuning-plus"}])
def test_resumed_training_has_the_snapshots_of_an_uninterrupted_one(
    role: Role, recipe: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without several learning rates that are compared, and with what stands outside the softmax."""
    wish = {"max_steps": 60, "eval_every": 20, **recipe}
    straight = role.submit(**wish)
    role.run()
    job = role.submit(**wish)
    pause_in_training(role, job, monkeypatch)
    with role.database.write() as session:
        resume_job(session, job)
    assert role.run().status == JobStatus.SUCCEEDED
    expected = [(each.step, each.validation_loss, each.artifact_hash) for each in snapshots(role, straight)]
    assert [(each.step, each.validation_loss, each.artifact_hash) for each in snapshots(role, job)] == expected
    evaluated = {event.step for event in role.events(straight, "evaluated")}
    assert [step for step, _, _ in expected] == sorted(evaluated | {role.job(straight).metrics["best_step"]})


def test_training_that_begins_anew_leaves_no_snapshot_of_the_old_one(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = role.submit(max_steps=60, eval_every=4)
    pause_in_training(role, job, monkeypatch)
    assert [each.step for each in snapshots(role, job)][:3] == [0, 4, 8]
    role.store.delete_run(job)
    with role.database.write() as session:
        resume_job(session, job)
    role.run()
    assert {each.attempt for each in snapshots(role, job)} == {2}


def test_discarded_training_leaves_no_snapshot(role: Role) -> None:
    job = role.submit(max_steps=5000, eval_every=5)
    user = role.when(lambda now: now.step > 10, lambda s, i: request_stop(s, i, keep=False), job)
    assert role.run().status == JobStatus.CANCELLED
    user.join()
    assert snapshots(role, job) == []


def test_full_disk_costs_a_snapshot_and_not_the_training(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ArtifactStore, data: bytes) -> str:
        raise DiskFullError("The disk is full.")

    monkeypatch.setattr(ArtifactStore, "put_bytes", full)
    job = role.submit()
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED
    assert [each.step for each in snapshots(role, job)] == [done.metrics["best_step"]]
    told = [event.data["message"] for event in role.events(job, "log")]
    assert "A snapshot is left out: The disk is full." in told


def test_training_that_the_disk_has_no_room_for_does_not_begin(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 12_000))
    job = role.submit()
    done = role.run()
    assert (done.status, done.error["code"]) == (JobStatus.FAILED, "disk_full")
    assert "has 0.0 MB left and this training needs 0." in done.error["message"]
    assert role.events(job, "evaluated") == []


@pytest.mark.parametrize("kind", get_args(Reparameterisation))
@pytest.mark.parametrize("method", get_args(Method))
def test_estimate_of_the_room_covers_what_checkpoints_take(role: Role, kind: str, method: str) -> None:
    base = load_base(role.folder, device="cpu")
    rows = [Example((1, 2, 3), (number, 0)) for number in range(10, 18)]
    wish = Recipe(
        method=method, num_virtual_tokens=16, reparameterisation=kind, max_steps=1, batch_size=4, eval_every=1,
        sweep=(0.1, 0.2), sweep_steps=5, learning_rate=0.1,
    )  # fmt: skip
    recipe = resolve(
        wish, num_train=8, instruction_tokens=4, geometry=base.geometry, num_base_parameters=10**5, on_gpu=False
    )
    steps = train(base, rows, rows, replace(recipe, max_steps=2), init_ids=[1, 2, 3])
    state = next(event.state for event in steps if isinstance(event, Checkpointed))
    taken = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors.values())
    estimate = estimate_disk_bytes(base.geometry, recipe)
    assert 3 * taken <= estimate <= 12 * taken
    assert MOST_SNAPSHOTS == MAX_SNAPSHOTS


def test_answers_at_an_evaluation_are_cut_for_want_of_time_and_say_so(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(role.folder, device="cpu")
    rows = [{"food": f"kind {index}", "text": "a long answer " * 8} for index in range(4)]
    told = Samples(base, Rendering("plain", "food: {food}", "text"), rows)
    prefix = base_prefix(base)
    full = [row["prefix"] for row in told.answer(load_bank(base, [prefix]))]
    monkeypatch.setattr(samples_module, "MAX_TIME_SHARE", 0.0)
    cut = [row["prefix"] for row in told.answer_in_time(prefix)]
    assert len(cut) == len(full) == 3
    for short, long in zip(cut, full, strict=True):
        assert short == long or (short.endswith(CUT) and len(short) < len(long))
    assert any(short != long for short, long in zip(cut, full, strict=True))


def base_prefix(base: LoadedBase) -> PrefixArray:
    measured = base.geometry
    shape = (measured.num_attentions, 2, measured.num_kv_heads, 4, measured.head_dim)
    return PrefixArray.of("prefix-tuning", np.random.default_rng(0).normal(size=shape).astype(np.float32))
