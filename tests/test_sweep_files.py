"""Garbage collection: what nothing names goes once it has been so for long, and never what something does."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import String

from storage import sweep as sweep_module
from storage.artifacts import ArtifactStore
from storage.checkpoints import add_checkpoint, drop_checkpoints, list_checkpoints
from storage.database import Database
from storage.datasets import create_dataset, delete_dataset
from storage.jobs import delete_job
from storage.lease import Lease
from storage.prefixes import get_prefix
from storage.references import REFERENCES, unreferenced
from storage.rows import load_parts
from storage.schema.job import JobStatus
from storage.schema.tables import METADATA
from storage.settings import Settings
from storage.snapshots import keep_snapshot, list_snapshots
from storage.sweep import LOOKS_PER_WAIT, Sweeper
from tests.stored import MAPPING, PREFIX_FIELDS, add_dataset, add_job, claim, store_table
from tests.test_snapshots import new
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.engine.events import Looked
from worker.engine.prefix_file import PrefixArray
from worker.engine.rendering import Rendering
from worker.training.recorder import Recorder
from worker.training.snapshots import Snapshots

ROWS: list[dict[str, str | None]] = [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
HOUR_S = 3600.0


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(clock: Clock) -> Sweeper:
    return Sweeper(HOUR_S, clock=clock)


def eager() -> Sweeper:
    """One that takes what it sees unnamed."""
    return Sweeper(0.0)


def watch_for(seconds: float, sweeper: Sweeper, clock: Clock, database: Database, store: ArtifactStore) -> int:
    """Looks every ten minutes; returns how many files went."""
    deleted = sweeper.look(database, store)
    for _ in range(round(seconds / 600)):
        clock.now_s += 600
        deleted += sweeper.look(database, store)
    return deleted


def test_file_without_a_row_goes_after_an_hour_and_not_before(
    database: Database, store: ArtifactStore, sweeper: Sweeper, clock: Clock
) -> None:
    """The file is published first; whoever dies before the commit leaves only a file, never a row without one."""

    def publish_and_die() -> None:
        with database.write() as session:
            create_dataset(session, "reviews.csv", store_table(store, train=ROWS), MAPPING, [])
            raise SystemExit("killed")

    with pytest.raises(SystemExit, match="killed"):
        publish_and_die()
    assert watch_for(HOUR_S - 600, sweeper, clock, database, store) == 0
    assert len(list(store.hashes())) == 1
    clock.now_s += 600
    assert sweeper.look(database, store) == 1
    assert list(store.hashes()) == []


def test_wall_clock_that_jumps_a_day_deletes_nothing(
    database: Database, store: ArtifactStore, sweeper: Sweeper, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a file and its row: the file seems a day old, or half a century, or from tomorrow."""
    tomorrow = sweep_module.time.time() + 86_400
    monkeypatch.setattr(sweep_module.time, "time", lambda: tomorrow)
    young = store.put_bytes(b"about to be named")
    for moment in (0, tomorrow + 86_400):
        os.utime(store.path(young), (moment, moment))
        assert sweeper.look(database, store) == 0
        clock.now_s += 600
    assert store.exists(young)


def test_what_is_named_meanwhile_or_put_anew_stays(
    database: Database, store: ArtifactStore, sweeper: Sweeper, clock: Clock
) -> None:
    named, again = store.put_bytes(b"named"), store.put_bytes(b"put again")
    assert watch_for(HOUR_S - 600, sweeper, clock, database, store) == 0
    with database.write() as session:
        add_job(session)
    lease = claim(database)
    with database.write() as session:
        lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": named})
    store.put_bytes(b"put again")
    assert watch_for(HOUR_S - 600, sweeper, clock, database, store) == 0
    assert (store.exists(named), store.exists(again)) == (True, True)


def test_sweeper_that_stood_still_itself_does_not_count_that_time(
    database: Database, store: ArtifactStore, sweeper: Sweeper, clock: Clock
) -> None:
    store.put_bytes(b"its writer stood still too")
    for _ in range(LOOKS_PER_WAIT):
        assert sweeper.look(database, store) == 0
        clock.now_s += 86_400
    assert sweeper.look(database, store) == 1


def test_half_written_file_goes_once_nobody_writes_to_it(
    database: Database, store: ArtifactStore, sweeper: Sweeper, clock: Clock
) -> None:
    store.put_bytes(b"x")
    store.delete(next(store.hashes()))
    half, growing = (store.root / "incoming" / name for name in ("half", "growing"))
    half.write_bytes(b"half")
    growing.write_bytes(b"")
    deleted = 0
    for _ in range(8):
        with growing.open("ab") as file:
            file.write(b"more")
        deleted += sweeper.look(database, store)
        clock.now_s += 600
    assert (deleted, half.exists(), growing.exists()) == (1, False, True)


def test_files_of_a_deleted_dataset_go_unless_another_shares_them(database: Database, store: ArtifactStore) -> None:
    table = store_table(store, train=ROWS)
    with database.write() as session:
        first, _ = add_dataset(session, table)
        second, version = add_dataset(session, table)
    with database.write() as session:
        delete_dataset(session, first.id)
    assert eager().look(database, store) == 0
    assert len(load_parts(store, version).train) == 1
    with database.write() as session:
        delete_dataset(session, second.id)
    assert eager().look(database, store) == 1


def test_run_folders_of_deleted_jobs_go(database: Database, store: ArtifactStore) -> None:
    (store.run_folder("0123456789abcdef", 1) / "trainer.log").write_text("left")
    with database.write() as session:
        job = add_job(session)
    (store.run_folder(job.id, 1) / "trainer.log").write_text("kept")
    assert eager().look(database, store) == 1
    assert store.run_ids() == [job.id]
    with database.write() as session:
        delete_job(session, job.id)
    assert eager().look(database, store) == 1
    assert store.run_ids() == []


def test_folders_are_read_before_the_jobs(
    database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is submitted and claimed in between has a row and a folder; neither order of events loses it."""
    run_ids = ArtifactStore.run_ids

    def list_then_submit(self: ArtifactStore) -> list[str]:
        found = run_ids(self)
        with database.write() as session:
            job = add_job(session)
        self.run_folder(job.id, 1)
        return found

    monkeypatch.setattr(ArtifactStore, "run_ids", list_then_submit)
    assert eager().look(database, store) == 0
    assert len(run_ids(store)) == 1


def write_checkpoints(database: Database, store: ArtifactStore, lease: Lease, *steps: int) -> list[Path]:
    paths = []
    for step in steps:
        path = store.run_folder(lease.job_id, lease.attempt) / f"checkpoint-{step}.safetensors"
        path.write_bytes(b"state")
        with database.write() as session:
            add_checkpoint(session, lease, step=step, path=path, sha256="0" * 64, size_bytes=5)
        paths.append(path)
    return paths


def test_latest_two_checkpoints_of_a_live_job_are_kept_whatever_attempt_wrote_them(
    database: Database, store: ArtifactStore
) -> None:
    with database.write() as session:
        job = add_job(session)
    first, second = write_checkpoints(database, store, claim(database), 4, 8)
    with database.write() as session:
        Lease(job.id, 1).release(session)
    (third,) = write_checkpoints(database, store, claim(database), 12)
    with database.write() as session:
        assert drop_checkpoints(session, store, job.id) == [first]
        assert [row.step for row in list_checkpoints(session, job.id)] == [12, 8]
    assert second.exists()
    assert third.exists()


@pytest.mark.parametrize(("end", "kept"), [("succeed", 1), ("cancel", 0), ("fail", 3), ("release", 3), ("run on", 3)])
def test_what_a_trainer_killed_at_its_end_left_goes_by_how_the_job_stands(
    database: Database, store: ArtifactStore, end: str, kept: int
) -> None:
    with database.write() as session:
        job = add_job(session)
    lease = claim(database)
    checkpoints = write_checkpoints(database, store, lease, 4, 8)
    half = store.run_folder(job.id, 1) / ".checkpoint-12.safetensors.7.tmp"
    half.write_bytes(b"sta")
    for name in ("trainer.log", "held"):
        (store.run_folder(job.id, 1) / name).write_text("kept")
    with database.write() as session:
        if end == "succeed":
            lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": store.put_bytes(b"1")})
        elif end == "fail":
            lease.fail(session, {"code": "x", "message": "x"})
        elif end in ("cancel", "release"):
            getattr(lease, end)(session)
    Sweeper(0.0, kept_checkpoints=1).look(database, store)
    left = [path for path in (*checkpoints, half) if path.exists()]
    assert len(left) == kept
    if kept == 1:
        assert left == checkpoints[1:]
    assert all((store.run_folder(job.id, 1) / name).exists() for name in ("trainer.log", "held"))


def test_every_column_that_names_a_blob_is_asked() -> None:
    """A new table with hashes has to be added to the references, or its files would be swept."""
    not_blobs = {
        "base_models.revision", "base_models.fingerprint", "dataset_versions.content_hash", "checkpoints.sha256",
        "prefixes.base_revision", "prefixes.base_fingerprint", "snapshots.base_fingerprint",
    }  # fmt: skip
    asked = {"prefixes.artifact_hash", "snapshots.artifact_hash", "answerings.table_hash", "answerings.result_hash"}
    hashes = {
        f"{table.name}.{column.name}"
        for table in METADATA.tables.values()
        for column in table.columns
        if isinstance(column.type, String) and column.type.length == 64
    }
    assert hashes == not_blobs | asked
    assert set(REFERENCES) == {"datasets", "prefixes", "snapshots", "answers"}


@contextmanager
def sweeping(database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A thread that takes whatever blob is unnamed, again and again; the list says how many each look took."""
    stop, taken = threading.Event(), []
    # What is being written has no second copy: there the wait alone protects, and this sweeper does not wait.
    monkeypatch.setattr(ArtifactStore, "incoming", lambda self: [])

    def sweep_on() -> None:
        while not stop.wait(0.005):
            taken.append(eager().look(database, store))

    thread = threading.Thread(target=sweep_on)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def seen_unnamed_once(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """Lets the first file that is written wait for the sweeper before it gets its row; chance alone may never do so."""
    put, is_first = ArtifactStore.put_bytes, iter([True])

    def put_and_wait(self: ArtifactStore, data: bytes) -> str:
        artifact_hash = put(self, data)
        if next(is_first, False):
            before, until = len(taken), time.monotonic() + 30
            while len(taken) < before + 2 and time.monotonic() < until:  # the first of them may have begun before
                time.sleep(0.001)
        return artifact_hash

    monkeypatch.setattr(ArtifactStore, "put_bytes", put_and_wait)


def test_sweep_beside_publishing_threads_takes_nothing_that_is_named(
    database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainers write the same few prefixes all the time, so a file is unnamed, named and put anew in any order."""
    with database.write() as session:
        jobs = [add_job(session) for _ in range(2)]
    leases = [claim(database) for _ in jobs]

    def publish_on(lease: Lease) -> None:
        keeper = Snapshots(database, store, Recorder(database, lease), "f" * 64, Rendering("plain", "{text}", "label"))
        for number in range(12):
            keeper.hear(Looked(number, 1.0, prefix_of(number % 3)))

    threads = [threading.Thread(target=publish_on, args=[lease]) for lease in leases]
    with sweeping(database, store, monkeypatch) as taken:
        seen_unnamed_once(monkeypatch, taken)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with database.read() as session:
        kept = [each for lease in leases for each in list_snapshots(session, lease.job_id)]
        assert unreferenced(session, store) == []
    assert len(kept) == 24
    assert all(store.size(each.artifact_hash) == each.size_bytes for each in kept)
    assert sum(taken) > 0


def prefix_of(number: int) -> PrefixArray:
    return PrefixArray.of("prompt-tuning", np.full((2, 4), number, np.float32))


def test_sweep_beside_a_running_job_takes_nothing_that_it_needs(
    settings: Settings,
    database: Database,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    role = Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))
    job = role.submit(max_steps=6, eval_every=2)
    with sweeping(database, store, monkeypatch):
        done = role.run()
    assert done.status == JobStatus.SUCCEEDED, done.error
    with database.read() as session:
        named = {get_prefix(session, done.prefix_id or "").artifact_hash}
        named |= {each.artifact_hash for each in list_snapshots(session, job)}
    assert all(store.exists(sha256) for sha256 in named)
    assert len(named) == 4


def test_snapshot_at_a_step_that_is_replaced_frees_the_file_of_the_first(
    database: Database, store: ArtifactStore
) -> None:
    with database.write() as session:
        add_job(session)
    lease = claim(database)
    for data in (b"first", b"second"):
        sha256 = store.put_bytes(data)
        with database.write() as session:
            keep_snapshot(session, lease, new(4, 1.0, sha256))
    assert eager().look(database, store) == 1
    assert store.exists(sha256)
