"""Files that are kept: blobs named by their SHA-256, and the folders of runs."""

import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec

from storage.disk import refusing_full_disk
from storage.errors import InvalidInputError, NotFoundError
from storage.settings import Settings

CHUNK_BYTES = 1 << 20


class FileIdentity(NamedTuple):
    """What differs once a file is written to, or put anew under its name."""

    inode: int
    size_bytes: int
    changed_ns: int


class ArtifactStore:
    """A folder of files that are written once.

    `blobs/sha256/ab/<hash>` holds a file under the SHA-256 of its bytes, so a name that is there is complete and right.
    `runs/<job>/<attempt>` is the folder that one attempt of a job writes its checkpoints and log to.

    Args:
        settings: `artifacts` names the root folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._filesystem = fsspec.filesystem("file")
        self.root = Path(settings.artifacts)
        self._incoming = self.root / "incoming"

    def put_file(self, path: Path) -> str:
        """Keeps a copy of the file at `path`.

        Returns:
            The SHA-256 of its bytes, in hexadecimal digits.

        Raises:
            DiskFullError: There is no room for it.
        """
        with path.open("rb") as source:
            return self._put(source)

    def adopt_file(self, path: Path, sha256: str) -> str:
        """Keeps the file at `path` by moving it, whose SHA-256 was counted while it was written.

        Returns:
            That SHA-256.

        Raises:
            DiskFullError: There is no room for it.
        """
        with refusing_full_disk("storing a file"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            try:
                self._publish(path, self.path(sha256))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return self.put_file(path)
        return sha256

    def put_bytes(self, data: bytes) -> str:
        """Keeps `data`; returns its SHA-256.

        Raises:
            DiskFullError: There is no room for it.
        """
        return self._put(io.BytesIO(data))

    def path(self, sha256: str) -> Path:
        """Where the blob of that hash lies, or would lie.

        Raises:
            InvalidInputError: It is not a SHA-256.
        """
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise InvalidInputError(f"{sha256!r} is not a SHA-256; expected 64 hexadecimal digits.")
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256

    def open(self, sha256: str) -> BinaryIO:
        """Opens a blob for reading.

        Raises:
            NotFoundError: It is not here.
        """
        if not self.exists(sha256):
            raise NotFoundError(f"The file {sha256[:12]} is no longer kept here. Upload or train it again.")
        opened: BinaryIO = self._filesystem.open(str(self.path(sha256)), "rb")
        return opened

    def exists(self, sha256: str) -> bool:
        """Whether the blob of that hash is here."""
        return bool(self._filesystem.exists(str(self.path(sha256))))

    def size(self, sha256: str) -> int:
        """Bytes of a blob; 0 where it is not here."""
        return int(self._filesystem.size(str(self.path(sha256)))) if self.exists(sha256) else 0

    def delete(self, sha256: str) -> None:
        """Deletes a blob; does nothing where it is not here."""
        self.path(sha256).unlink(missing_ok=True)

    def delete_unchanged(self, path: Path, seen: FileIdentity) -> bool:
        """Deletes a blob or a half-written file, unless somebody has put or written it anew since it was seen.

        Returns:
            Whether it is gone.
        """
        aside = self._incoming / secrets.token_hex(8)
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            return False
        # Moved first and looked at then: between a look and a deletion another could have come under this name.
        if identity_of(aside) == seen:
            aside.unlink()
            return True
        os.replace(aside, path)
        return False

    def incoming(self) -> list[Path]:
        """The files that are being written, or that a crash cut off."""
        return sorted(self._incoming.glob("*"))

    def hashes(self) -> Iterator[str]:
        """The SHA-256 of every blob."""
        for path in sorted((self.root / "blobs" / "sha256").glob("??/*")):
            yield path.name

    def run_folder(self, job_id: str, attempt: int) -> Path:
        """The folder of one attempt of a job; made when it is missing."""
        folder = self._run(job_id) / str(attempt)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def run_folders(self, job_id: str) -> list[Path]:
        """The folders of the attempts of a job so far, the latest first."""
        folders = [path for path in self._run(job_id).glob("*") if path.name.isdecimal()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def run_ids(self) -> list[str]:
        """The jobs that have a run folder."""
        return sorted(path.name for path in (self.root / "runs").glob("*") if path.name.isalnum())

    def delete_run(self, job_id: str) -> None:
        """Deletes what every attempt of a job left; does nothing where that is nothing."""
        shutil.rmtree(self._run(job_id), ignore_errors=True)

    def usage(self) -> dict[str, int]:
        """Bytes on disk: `blobs`, `runs`, and `incoming` (files that are being written, or that a crash cut off)."""
        return {kind: folder_bytes(self.root / kind) for kind in ("blobs", "runs", "incoming")}

    def _run(self, job_id: str) -> Path:
        if not job_id.isalnum():
            raise InvalidInputError(f"{job_id!r} is not the id of a job; expected letters and digits.")
        return self.root / "runs" / job_id

    def _put(self, source: BinaryIO) -> str:
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        incoming = self._incoming / secrets.token_hex(8)
        try:
            with refusing_full_disk("storing a file"):
                sha256 = self._copy(source, incoming)
                self._publish(incoming, self.path(sha256))
        finally:
            incoming.unlink(missing_ok=True)
        return sha256

    def _copy(self, source: BinaryIO, target: Path) -> str:
        digest = hashlib.sha256()
        with self._filesystem.open(str(target), "wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _publish(self, incoming: Path, target: Path) -> None:
        # A blob that is there already is replaced by its equal: its time becomes new, so that a sweep of old blobs
        # without a row leaves it to the caller, who is about to write one.
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.replace(incoming, target)
        sync_folder(target.parent)
        sync_folder(target.parent.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive the loss of power, as fsync does for the bytes of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity_of(path: Path) -> FileIdentity | None:
    """Which file lies at a path now; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return FileIdentity(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files beneath a folder; files that vanish while it counts are left out."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total
