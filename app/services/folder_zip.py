"""A base model's folder as a zip that is sent while it is read, so that nothing is written twice."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from app.context import AppContext
from storage.base_models import get_base_model
from storage.bases.hub import SIDE_FILES
from storage.bases.inspect import check_contained, weight_files
from storage.errors import ConflictError
from storage.schema.base_model import BaseModelSource

CHUNK_BYTES = 1 << 20


def base_model_zip(context: AppContext, name: str) -> tuple[str, Iterator[bytes]]:
    """The files of a base model that no hub has.

    Returns:
        The folder's name inside the zip, which a load snippet expects, and the bytes of the zip.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It comes from the hub, or is not usable on this machine.
        InvalidInputError: A file is missing, or leads out of the folder.
    """
    with context.database.read() as session:
        row = get_base_model(session, name)
    if row.source is BaseModelSource.HUB:
        raise ConflictError(f"{name} comes from the Hugging Face Hub. Download it there, at commit {row.revision}.")
    if row.path is None:
        raise ConflictError(f"{name} is not usable on this machine, so there is nothing to download.")
    folder = Path(row.path)
    check_contained(folder, folder)
    side_files = sorted(path for path in folder.iterdir() if path.is_file() and SIDE_FILES.fullmatch(path.name))
    return name, stream_zip([(f"{name}/{path.name}", path) for path in [*side_files, *weight_files(folder)]])


def stream_zip(members: list[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of files, uncompressed: weights do not get smaller.

    Args:
        members: Name in the zip, and the file.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in members:
            with path.open("rb") as source, archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                while chunk := source.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """Takes what zipfile writes; it cannot seek, so zipfile never goes back to change it."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        held = bytes(data)  # type: ignore[call-overload]
        self._held += held
        return len(held)

    def take(self) -> bytes:
        taken = bytes(self._held)
        self._held.clear()
        return taken
