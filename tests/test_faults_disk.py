"""A disk that is really full: told in a sentence wherever it is met, and work goes on once there is room again."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.main import create_app
from storage import disk as disk_module
from storage.artifacts import ArtifactStore
from storage.checkpoints import list_checkpoints
from storage.database import open_database
from storage.jobs import events_after
from storage.migrate import migrate
from storage.schema.job import JobStatus
from storage.settings import Settings, read_settings
from tests.fault_bench import RealQueue, hasty_settings
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.engine.checkpoint import read_checkpoint

DISK_BYTES = 24_000_000
CHUNK_BYTES = 4096
TABLE = "text,label\n" + "".join(f"row number {number} of a long table,{number % 2}\n" for number in range(60_000))

pytestmark = pytest.mark.slow


class SmallDisk:
    """A file system of its own that can be filled to its last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, *, leave_bytes: int = 0) -> None:
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * CHUNK_BYTES)
            except OSError:
                pass
            if leave_bytes:
                os.truncate(self._filler, os.path.getsize(self._filler) - leave_bytes)

    def make_room(self) -> None:
        self._filler.unlink()

    def free_bytes(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a small file system (tmpfs)")
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def home(disk: SmallDisk) -> Settings:
    """Settings of a home folder on that disk."""
    settings = read_settings({"PREFIX_STUDIO_HOME": str(disk.folder / "home")})
    settings.home.mkdir(mode=0o700)
    migrate(settings)
    return settings


@pytest.fixture
def client(home: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(home, page=False), base_url="http://127.0.0.1") as client:
        yield client


def upload(client: TestClient, table: str = TABLE) -> Any:
    return client.post("/api/v1/datasets", files={"file": ("table.csv", table.encode())})


def leftovers(home: Settings) -> list[Path]:
    folders = [home.home / "uploads", Path(home.artifacts) / "incoming"]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and "raw-" not in str(path)]


def assert_told_in_a_sentence(answer: Any) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full"), answer.text
    assert answer.json()["error"]["message"].startswith("The disk is full, so nothing was kept of what was under way")


def test_upload_that_does_not_fit_is_refused_and_fits_once_there_is_room(
    disk: SmallDisk, home: Settings, client: TestClient
) -> None:
    disk.fill(leave_bytes=1_000_000)
    assert_told_in_a_sentence(upload(client))
    assert client.get("/api/v1/datasets").json() == []
    assert leftovers(home) == []
    disk.make_room()
    assert upload(client).status_code == 201


def test_upload_for_which_even_temporary_files_have_no_room_is_told_in_the_same_sentence(
    disk: SmallDisk, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.fill()
    assert_told_in_a_sentence(upload(client))
    assert client.get("/api/v1/datasets").json() == []


def test_database_without_room_says_so_and_keeps_what_it_acknowledged(
    disk: SmallDisk, home: Settings, client: TestClient
) -> None:
    name = "/api/v1/datasets/" + upload(client, TABLE[:3000].rpartition("\n")[0]).json()["id"]
    disk.fill()
    refused, acknowledged = None, None
    for number in range(2000):
        answer = client.patch(name, json={"name": f"{number}-{'x' * 60}"})
        if answer.status_code != 200:
            refused = answer
            break
        acknowledged = answer.json()["name"]
    assert refused is not None
    assert_told_in_a_sentence(refused)
    disk.make_room()
    assert client.get(name).json()["name"] == (acknowledged or "table.csv")
    assert client.patch(name, json={"name": "room again"}).status_code == 200
    database = open_database(home)
    with database.read() as session:
        assert session.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    database.close()


def test_training_outlives_a_full_disk_and_publishes_once_there_is_room(
    disk: SmallDisk, home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFIX_STUDIO_HOME", "PREFIX_STUDIO_CHECKPOINT_EVERY_S"):
        monkeypatch.setenv(name, "")  # what is set below goes when the test ends
    hasty = hasty_settings(home.home)
    monkeypatch.setattr(disk_module, "MIN_ROOM_BYTES", 500_000)
    database = open_database(hasty)
    role = Role(hasty, database, ArtifactStore(hasty), tiny_base_folder(tmp_path / "models" / "tiny"), 0.05)
    queue = RealQueue(role)
    try:
        first = role.submit(max_steps=150, eval_every=50)
        queue.run_until(lambda: queue.checkpointed_step(first) > 5)
        second = role.submit(max_steps=150, eval_every=50)
        disk.fill()
        began = time.monotonic()
        queue.run_until(lambda: time.monotonic() - began > 2.0)
        assert disk.free_bytes() == 0
        assert (role.job(first).status, role.job(second).status) == (JobStatus.RUNNING, JobStatus.QUEUED)
        assert_checkpoints_are_whole(role, first)
        disk.make_room()
        queue.run_until(lambda: queue.ended(first, second))
        done = [role.job(first), role.job(second)]
        assert [(each.status, each.attempt, each.error) for each in done] == [(JobStatus.SUCCEEDED, 1, None)] * 2
        with database.read() as session:
            told = events_after(session, first)
        assert [event.step for event in told if event.kind == "step"] == list(range(1, 151))
        assert any("This checkpoint is left out: The disk is full" in str(event.data) for event in told)
    finally:
        queue.stop()
        database.close()


def assert_checkpoints_are_whole(role: Role, job_id: str) -> None:
    with role.database.read() as session:
        kept = [Path(row.path) for row in list_checkpoints(session, job_id)]
    sound = [read_checkpoint(path) for path in kept if path.exists()]
    assert sound
    folder = role.store.run_folder(job_id, 1)
    assert list(folder.glob(".*.tmp")) == []
