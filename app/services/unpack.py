"""Takes a prefix out of a zip from whomever: named members only, every byte counted, nothing believed."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from app.services.archive import RECORD_NAME
from app.services.methods import OWN_TENSORS_NAME
from storage.errors import InvalidInputError, TooLargeError
from storage.zips import DAMAGED, METHODS
from worker.engine.prefix_file import CONFIG_NAME, MAX_CONFIG_BYTES, TENSORS_NAME

MAX_MEMBERS = 1000
MAX_DIRECTORY_BYTES = 1_000_000
MAX_RECORD_BYTES = 2_000_000
MAX_TENSORS_BYTES = 1_000_000_000
CHUNK_BYTES = 1 << 20

CAPS = {
    CONFIG_NAME: MAX_CONFIG_BYTES,
    TENSORS_NAME: MAX_TENSORS_BYTES,
    OWN_TENSORS_NAME: MAX_TENSORS_BYTES,
    RECORD_NAME: MAX_RECORD_BYTES,
}
"""The members that are ever read, with the most bytes that may come out of each."""

END_RECORD, END_RECORD_BYTES, MAX_COMMENT_BYTES = b"PK\x05\x06", 22, 65_535
ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20


def unpack(archive_path: Path, folder: Path) -> None:
    """Writes the members that a prefix consists of to a folder, and nothing else of the zip.

    A folder around them inside the zip is tolerated.

    Args:
        archive_path: The zip.
        folder: An empty folder.

    Raises:
        InvalidInputError: It is no zip, is damaged, or is not that of a prefix.
        TooLargeError: More bytes come out of a member than it may have.
    """
    _check_directory(archive_path)
    try:
        archive = zipfile.ZipFile(archive_path)
    except DAMAGED as error:
        raise _damaged(error) from error
    with archive:
        for name, member in _named_members(archive).items():
            _extract(archive, member, folder / name)


def _check_directory(path: Path) -> None:
    """Refuses a zip whose list of members alone would fill the memory, before `zipfile` reads it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - MAX_COMMENT_BYTES - END_RECORD_BYTES - ZIP64_LOCATOR_BYTES))
        tail = file.read()
    at = tail.rfind(END_RECORD)
    record = tail[at : at + END_RECORD_BYTES]
    if at < 0 or len(record) < END_RECORD_BYTES:
        raise _damaged("it has no list of members")
    count, directory_bytes = int.from_bytes(record[10:12], "little"), int.from_bytes(record[12:16], "little")
    is_zip64 = tail[max(0, at - ZIP64_LOCATOR_BYTES) : at].startswith(ZIP64_LOCATOR)
    if is_zip64 or count > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise InvalidInputError("The zip has far more members than that of a prefix, which has four. Choose another.")


def _named_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parent, _, name = member.filename.rpartition("/")
        # The last part of a name is compared with ours and no other part is used: no path of the zip is ever followed.
        if name not in CAPS or "/" in parent or parent == "__MACOSX":
            continue
        if name in found:
            raise InvalidInputError(f"The zip holds {name} twice. Choose the zip of one prefix, as it was downloaded.")
        found[name] = member
    is_own_format = OWN_TENSORS_NAME in found and CONFIG_NAME not in found
    # Such numbers say nothing of themselves; what they are stands in our record alone.
    for name in (RECORD_NAME,) if is_own_format else (CONFIG_NAME, TENSORS_NAME):
        if name not in found:
            raise InvalidInputError(
                f"The zip has no {name}, so it is not that of a prefix. Choose one that PEFT or Prefix Studio wrote; "
                "weights are read from safetensors only."
            )
    return found


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Counts the bytes that come out, since what a zip says of itself may be false."""
    if member.compress_type not in METHODS:
        raise _damaged("it is packed in an unusual way")
    limit, written = CAPS[target.name], 0
    with target.open("wb") as sink:
        for chunk in _chunks(archive, member):
            written += len(chunk)
            if written > limit:
                raise TooLargeError(f"{target.name} in this zip is over {limit:,} bytes, more than any prefix needs.")
            sink.write(chunk)


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except DAMAGED as error:
        raise _damaged(error) from error


def _damaged(reason: object) -> InvalidInputError:
    shown = str(reason)[:80] or type(reason).__name__
    return InvalidInputError(f"This file is no zip that can be read ({shown}). Choose the zip of a prefix.")
