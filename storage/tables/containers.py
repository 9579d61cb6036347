"""Opens what tables come packed in: a zip becomes the files inside it, each unpacked under the caps of a table."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.parts import part_of
from storage.tables.sources import CHUNK_BYTES, SourceFile
from storage.zips import DAMAGED, METHODS

ZIP_MAGIC = b"PK\x03\x04"
EMPTY_ZIP_MAGIC = b"PK\x05\x06"
MAX_MEMBERS = 10_000
TABLE_ENDING = re.compile(r"\.(csv|tsv|tab|json|jsonl|ndjson|parquet|xlsx|xlsm)(\.gz)?$", re.IGNORECASE)
WORKBOOK_ENDING = re.compile(r"\.xls[xm]$", re.IGNORECASE)
TEXT_ENDING = re.compile(r"\.(txt|dat|data)(\.gz)?$", re.IGNORECASE)
BESIDES = re.compile(r"(^|/)(__MACOSX/|\.[^./]|(readme|licen[cs]e|copying|citation)(\.[a-z]+)?$)", re.IGNORECASE)
"""What lies in archives beside their tables, by its path."""


def unpacked(files: Sequence[SourceFile], folder: Path) -> list[SourceFile]:
    """The files as readers can take them: a zip gives the tables inside it, everything else stays.

    Args:
        files: What was uploaded.
        folder: Where members are unpacked to.

    Raises:
        StudioError: An archive is damaged, holds no table, or far too much.
    """
    found: list[SourceFile] = []
    for source in files:
        members = _members(source) if _is_archive(source) else None
        if members is None:
            found.append(_out_of_gzip(source, folder / f"unpacked-{len(found)}"))
        elif len(members) == 1 or len(files) == 1:
            found += [_extracted(source, member, folder / f"unpacked-{len(found) + at}", len(members))
                      for at, member in enumerate(members)]  # fmt: skip
        else:
            raise InvalidInputError(
                f"{source.name} holds several tables and comes with other files. Upload the zip alone, or its files."
            )
    return found


def is_workbook(path: Path) -> bool:
    """Whether a file is a workbook of Excel, by what its zip holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.startswith("xl/workbook") for name in archive.namelist())
    except DAMAGED:
        return False


def _is_archive(source: SourceFile) -> bool:
    with source.path.open("rb") as file:
        head = file.read(4)
    return head in (ZIP_MAGIC, EMPTY_ZIP_MAGIC) and not is_workbook(source.path)


def _members(source: SourceFile) -> list[zipfile.ZipInfo]:
    """The tables of a zip: one, or one for each part of a dataset."""
    try:
        with zipfile.ZipFile(source.path) as archive:
            listed = archive.infolist()
    except DAMAGED as error:
        raise _damaged(source, error) from error
    names = {member.filename for member in listed}
    if "mimetype" in names or "[Content_Types].xml" in names:
        raise InvalidInputError(
            f"{source.name} is a document of an office program other than an Excel workbook, which cannot be read. "
            "Save its table as XLSX or CSV, then upload that."
        )
    if len(listed) > MAX_MEMBERS:
        raise InvalidInputError(f"{source.name} holds {len(listed):,} files. Upload the one with the table.")
    files = [member for member in listed if not member.is_dir() and not BESIDES.search(member.filename)]
    tables = [member for member in files if TABLE_ENDING.search(member.filename)]
    tables = tables or [member for member in files if TEXT_ENDING.search(member.filename)]
    if not tables:
        inside = ", ".join(sorted(names)[:5])[:200] or "nothing"
        raise InvalidInputError(
            f"{source.name} holds no table (it has {inside}). Put one file into it: CSV, TSV, JSON, JSONL, Parquet or "
            "XLSX."
        )
    if len(tables) > 1:
        parts = [part_of(_short(member)) for member in tables]
        if None in parts or len(set(parts)) < len(parts):
            listed_names = ", ".join(_short(member) for member in tables[:4])
            raise InvalidInputError(
                f"{source.name} holds {len(tables)} tables ({listed_names}{', …' if len(tables) > 4 else ''}); "
                "expected one, or one each with train, validation and test in its name. Upload the one that you mean."
            )
    return tables


def _extracted(source: SourceFile, member: zipfile.ZipInfo, path: Path, num_tables: int) -> SourceFile:
    """Counts the bytes that come out, since what a zip says of itself may be false."""
    if member.compress_type not in METHODS:
        raise _damaged(source, "it is packed in an unusual way")
    if member.flag_bits & 1:
        raise InvalidInputError(f"{source.name} is locked with a password. Unpack it, and upload the table inside.")
    allowed = source.limits.unpacked_bytes(member.compress_size)
    written = 0
    try:
        with zipfile.ZipFile(source.path) as archive, archive.open(member) as inner, path.open("wb") as sink:
            while chunk := inner.read(CHUNK_BYTES):
                written += len(chunk)
                if written > allowed:
                    raise _swells(source, allowed)
                sink.write(chunk)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(source, error) from error
    with path.open("rb") as file:
        if file.read(4) == ZIP_MAGIC and not is_workbook(path):
            raise InvalidInputError(f"{source.name} holds another zip. Unpack it once, and upload that.")
    name = _short(member) if num_tables > 1 or source.name.lower().endswith(".zip") else source.name
    return SourceFile(path, name, source.limits, "zip")


def _out_of_gzip(source: SourceFile, path: Path) -> SourceFile:
    """A packed file whose format has to be read from a place of its own; text is unpacked as it is read."""
    if not source.is_gzip:
        return source
    with source.opened() as file:
        head = file.read(4)
        if head not in (ZIP_MAGIC, b"PAR1"):
            return source
        with path.open("wb") as sink:
            sink.write(head)
            while chunk := file.read(CHUNK_BYTES):
                sink.write(chunk)
    if head == ZIP_MAGIC and not is_workbook(path):
        raise InvalidInputError(f"{source.name} is a zip packed with gzip. Upload the table inside.")
    return SourceFile(path, source.name, source.limits, "gzip")


def _short(member: zipfile.ZipInfo) -> str:
    return member.filename.replace("\\", "/").rpartition("/")[2]


def _swells(source: SourceFile, allowed: int) -> TooLargeError:
    return TooLargeError(
        f"{source.name} unpacks to more than {allowed / 1e6:,.0f} MB, far more than a table of its size would. "
        "Upload it unpacked, or in smaller pieces."
    )


def _damaged(source: SourceFile, reason: object) -> InvalidInputError:
    shown = str(reason)[:80] or type(reason).__name__
    kind = "workbook" if WORKBOOK_ENDING.search(source.name) else "zip"
    return InvalidInputError(f"{source.name} is a {kind} that cannot be read ({shown}). Write and upload it again.")
