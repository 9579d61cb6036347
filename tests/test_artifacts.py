"""Files kept by their hash: complete or not there at all."""

import errno
import hashlib
import os
from pathlib import Path
from typing import NoReturn

import pytest

from storage import artifacts
from storage.artifacts import ArtifactStore, folder_bytes, identity_of
from storage.disk import DiskFullError
from storage.errors import InvalidInputError, NotFoundError


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_put_names_a_file_by_the_hash_of_its_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    data = os.urandom(3 * artifacts.CHUNK_BYTES + 17)
    (tmp_path / "table.csv").write_bytes(data)
    sha256 = store.put_file(tmp_path / "table.csv")
    assert sha256 == hashlib.sha256(data).hexdigest() == store.put_bytes(data)
    assert store.path(sha256) == store.root / "blobs" / "sha256" / sha256[:2] / sha256
    assert store.path(sha256).read_bytes() == data
    with store.open(sha256) as file:
        assert file.read(100) == data[:100]
    assert store.size(sha256) == len(data)
    assert list(store.hashes()) == [sha256]


def test_put_leaves_nothing_half_written(store: ArtifactStore) -> None:
    sha256 = store.put_bytes(b"whole")
    assert files(store.root) == [store.path(sha256)]


def test_put_of_a_known_file_makes_it_young_again(store: ArtifactStore) -> None:
    sha256 = store.put_bytes(b"again")
    os.utime(store.path(sha256), (0, 0))
    store.put_bytes(b"again")
    assert store.path(sha256).stat().st_mtime > 1e9


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_nothing_and_is_told(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int) -> NoReturn:
        raise OSError(number, "no room")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(DiskFullError, match="The disk is full"):
        store.put_bytes(b"too much")
    assert files(store.root) == []


def test_other_faults_of_the_disk_are_not_called_full(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> NoReturn:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(artifacts.os, "fsync", broken)
    with pytest.raises(OSError, match="broken disk"):
        store.put_bytes(b"anything")


def test_bytes_and_names_are_synced_before_they_count(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self/fd") else "?")
        fsync(descriptor)

    monkeypatch.setattr(artifacts.os, "fsync", watch)
    sha256 = store.put_bytes(b"kept")
    assert len(synced) == 3
    if synced[0] != "?":
        assert Path(synced[0]).parent.name == "incoming"
        assert synced[1] == str(store.path(sha256).parent)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_path_refuses_what_is_no_hash(store: ArtifactStore, name: str) -> None:
    with pytest.raises(InvalidInputError, match="not a SHA-256"):
        store.path(name)


def test_open_of_a_missing_file_is_told(store: ArtifactStore) -> None:
    with pytest.raises(NotFoundError, match="no longer kept"):
        store.open("a" * 64)


def test_delete_may_be_repeated(store: ArtifactStore) -> None:
    sha256 = store.put_bytes(b"gone")
    store.delete(sha256)
    store.delete(sha256)
    assert not store.exists(sha256)
    assert store.size(sha256) == 0


def test_run_folders_are_listed_from_the_latest_attempt(store: ArtifactStore) -> None:
    for attempt in (1, 2, 10):
        (store.run_folder("job1", attempt) / "log").write_text("line")
    assert [folder.name for folder in store.run_folders("job1")] == ["10", "2", "1"]
    assert store.run_ids() == ["job1"]
    store.delete_run("job1")
    assert store.run_folders("job1") == []


def test_run_folder_refuses_a_path_as_its_job(store: ArtifactStore) -> None:
    with pytest.raises(InvalidInputError, match="not the id of a job"):
        store.delete_run("../blobs")


def test_usage_counts_bytes_by_kind(store: ArtifactStore) -> None:
    store.put_bytes(b"12345")
    (store.run_folder("job1", 1) / "log").write_bytes(b"123")
    assert store.usage() == {"blobs": 5, "runs": 3, "incoming": 0}
    assert folder_bytes(store.root / "nowhere") == 0


def test_file_that_was_put_anew_since_it_was_seen_is_not_deleted(store: ArtifactStore) -> None:
    path = store.path(store.put_bytes(b"x"))
    seen = identity_of(path)
    assert seen is not None
    store.put_bytes(b"x")
    assert not store.delete_unchanged(path, seen)
    assert path.read_bytes() == b"x"
    seen = identity_of(path)
    assert seen is not None
    assert store.delete_unchanged(path, seen)
    assert not store.delete_unchanged(path, seen)
    assert identity_of(path) is None
    assert store.incoming() == []


def test_an_adopted_file_is_moved_under_its_hash(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"rows")
    sha256 = store.adopt_file(path, hashlib.sha256(b"rows").hexdigest())
    assert not path.exists()
    assert store.path(sha256).read_bytes() == b"rows"


def test_a_file_on_another_disk_is_copied(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"rows")
    replace = os.replace

    def from_another_disk(source: Path, target: Path) -> None:
        if source == path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", from_another_disk)
    sha256 = store.adopt_file(path, hashlib.sha256(b"rows").hexdigest())
    assert store.path(sha256).read_bytes() == path.read_bytes()
