"""The real trainer, killed at random steps and in the middle of a checkpoint: its prefix is that of an unbroken run."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.checkpoints import list_checkpoints
from storage.database import open_database
from storage.prefixes import get_prefix, list_prefixes
from storage.schema.job import JobStatus
from storage.snapshots import list_snapshots
from tests.fault_bench import RealQueue, hasty_settings, kill_while_writing
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from tests.trainer_nursery import FATAL
from worker.engine.checkpoint import read_checkpoint

SEED = 7
STEPS = 150
RECIPE = {"max_steps": STEPS, "eval_every": 50, "learning_rate": 0.01}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[RealQueue]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "home").mkdir()
    shutil.copy(migrated_database, folder / "home" / "studio.db")
    with pytest.MonkeyPatch.context() as patches:
        for name in ("PREFIX_STUDIO_HOME", "PREFIX_STUDIO_CHECKPOINT_EVERY_S"):
            patches.setenv(name, "")  # what is set below goes when the tests end
        patches.setenv("OMP_NUM_THREADS", "1")
        hasty = hasty_settings(folder / "home")
        database = open_database(hasty)
        role = Role(hasty, database, ArtifactStore(hasty), tiny_base_folder(folder / "models" / "tiny"), 0.05)
        queue = RealQueue(role, num_slots=2)
        yield queue
        queue.stop()
        database.close()


def prefix_hash(queue: RealQueue, job_id: str) -> str:
    job = queue.role.job(job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    with queue.role.database.read() as session:
        return get_prefix(session, job.prefix_id or "").artifact_hash


def assert_only_whole_checkpoints_are_written_down(queue: RealQueue, job_id: str) -> None:
    with queue.role.database.read() as session:
        rows = [row for row in list_checkpoints(session, job_id) if Path(row.path).exists()]
    assert rows
    assert [read_checkpoint(Path(row.path)).progress.step for row in rows] == [row.step for row in rows]


def test_trainer_killed_at_random_and_in_a_checkpoint_gives_the_prefix_of_an_unbroken_run(queue: RealQueue) -> None:
    rng = random.Random(SEED)
    straight, killed = queue.role.submit(**RECIPE), queue.role.submit(**RECIPE)

    kill_at = rng.randrange(10, STEPS // 2)
    queue.run_until(lambda: queue.checkpointed_step(killed) >= kill_at, look_s=0.005)
    queue.trainer_of(killed).kill()
    assert_only_whole_checkpoints_are_written_down(queue, killed)

    queue.run_until(lambda: bool(steps_of(queue, killed, attempt=2)))
    second = queue.role.store.run_folder(killed, 2)
    left = kill_while_writing(queue.trainer_of(killed), second, ".checkpoint-*.tmp")
    assert_only_whole_checkpoints_are_written_down(queue, killed)
    assert steps_of(queue, killed, attempt=2)[0] > kill_at

    queue.run_until(lambda: queue.ended(straight, killed))
    assert (queue.role.job(killed).attempt, queue.role.job(killed).lost_attempts) == (3, 2)
    assert prefix_hash(queue, killed) == prefix_hash(queue, straight)
    assert [path for path in left if path.exists()] == []


def test_trainer_killed_between_the_file_of_its_prefix_and_the_row_publishes_it_once(queue: RealQueue) -> None:
    before = set(queue.role.store.hashes())
    job_id = queue.role.submit(max_steps=4, eval_every=2)
    (queue.role.workplace.settings.home / "run" / f"{FATAL}-{job_id}").touch()
    queue.run_until(lambda: queue.role.job(job_id).attempt == 2)
    (left,) = set(queue.role.store.hashes()) - before - looks_of(queue, job_id)
    queue.run_until(lambda: queue.ended(job_id))
    assert queue.role.job(job_id).lost_attempts == 1
    assert prefix_hash(queue, job_id) == left
    with queue.role.database.read() as session:
        assert [prefix.job_id for prefix in list_prefixes(session)].count(job_id) == 1


def looks_of(queue: RealQueue, job_id: str) -> set[str]:
    with queue.role.database.read() as session:
        return {snapshot.artifact_hash for snapshot in list_snapshots(session, job_id)}


def steps_of(queue: RealQueue, job_id: str, attempt: int) -> list[int]:
    return [event.step or 0 for event in queue.role.events(job_id, "step") if event.attempt == attempt]
