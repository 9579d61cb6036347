"""From uploaded files to a stored table, read in a child process that a bad file may bring down alone."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from storage.artifacts import ArtifactStore
from storage.disk import DiskFullError
from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.tables.child import RESULT_NAME, out_of_memory
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parts import assign_parts
from storage.tables.reader_process import ReaderProcesses
from storage.tables.table import Part, StoredTable

POLL_S = 0.02
REFUSALS: dict[str, type[StudioError]] = {kind.code: kind for kind in (InvalidInputError, TooLargeError, DiskFullError)}


def parse_upload(
    files: Sequence[tuple[str, Path]],
    store: ArtifactStore,
    *,
    folder: Path,
    limits: Limits | None = None,
    options: ReadOptions | None = None,
    accept: Callable[[list[str]], None] | None = None,
    parts: Mapping[Part, Sequence[int]] | None = None,
    processes: ReaderProcesses | None = None,
) -> StoredTable:
    """Reads uploaded files and keeps their rows as Parquet.

    Args:
        files: Name and place of each file: one table, or one file each for train, validation and test.
        store: Where the Parquet files go.
        folder: Private folder beneath which it works; nothing of it is left when it returns or raises.
        limits: Caps; the usual ones by default.
        options: What the user knows better than the guess.
        accept: Called with the columns before anything is kept; what it raises ends the upload.
        parts: Places of the files of each part, pieces of one table in their order; by their names where left out.
        processes: Gives the process that reads; a new one by default.

    Raises:
        StudioError: The files are no table, or too large; the sentence says what to do.
    """
    limits = limits or Limits()
    if parts is None:
        assign_parts([name for name, _ in files])
    _check_size(files, limits)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = Path(tempfile.mkdtemp(prefix="read-", dir=folder))
    try:
        more = {} if parts is None else {"parts": {part: list(places) for part, places in parts.items()}}
        result = _ask(work, _request(files, limits, options, **more), limits, processes)
        if accept is not None:
            accept(result["columns"])
        size_bytes = sum((work / f"{part}.parquet").stat().st_size for part in result["blobs"])
        for part, sha256 in result["blobs"].items():
            result["blobs"][part] = store.adopt_file(work / f"{part}.parquet", sha256)
        return StoredTable(size_bytes=size_bytes, **result)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def preview_upload(
    files: Sequence[tuple[str, Path]],
    *,
    folder: Path,
    limits: Limits | None = None,
    options: ReadOptions | None = None,
    processes: ReaderProcesses | None = None,
) -> dict[str, Any]:
    """The first rows of uploaded files, from their beginning alone: the same time whatever their size.

    Args:
        files: As for `parse_upload`.
        folder: As for `parse_upload`.
        limits: As for `parse_upload`.
        options: As for `parse_upload`.
        processes: As for `parse_upload`.

    Returns:
        `columns`, `rows` (lists of cells) and `detected`, as far as the beginning tells.

    Raises:
        StudioError: Not even the first rows can be read, or the files are too large.
    """
    limits = limits or Limits()
    assign_parts([name for name, _ in files])
    _check_size(files, limits)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = Path(tempfile.mkdtemp(prefix="peek-", dir=folder))
    try:
        return _ask(work, _request(files, limits, options, peek=True), limits, processes)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_size(files: Sequence[tuple[str, Path]], limits: Limits) -> None:
    size = sum(path.stat().st_size for _, path in files)
    if size > limits.max_file_bytes:
        raise TooLargeError(
            f"The upload has {size / 1e6:,.1f} MB; expected at most {limits.max_file_bytes / 1e6:,.1f} MB. "
            "Upload fewer rows, or the same table as Parquet."
        )


def _request(
    files: Sequence[tuple[str, Path]], limits: Limits, options: ReadOptions | None, **more: Any
) -> dict[str, Any]:
    return {
        "files": [{"name": _shown(name), "path": str(path.absolute())} for name, path in files],
        "limits": limits.to_dict(),
        "options": (options or ReadOptions()).to_dict(),
        **more,
    }


def _ask(work: Path, request: dict[str, Any], limits: Limits, processes: ReaderProcesses | None) -> dict[str, Any]:
    """Has a process answer a request in the folder `work`."""
    path = work / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    processes = processes or ReaderProcesses()
    process = processes.take()
    try:
        process.begin(path)
        _watch(process.popen, limits)
    finally:
        errors = process.end()
        processes.warm_up()
    return _result(work, process.popen.returncode, errors)


def _watch(child: subprocess.Popen[bytes], limits: Limits) -> None:
    """Waits for the child; not every system holds it to its memory, so its size is looked at too."""
    deadline = time.monotonic() + limits.timeout_s
    process = psutil.Process(child.pid)
    while child.poll() is None:
        if time.monotonic() > deadline:
            raise TooLargeError(
                f"Reading the file took longer than {limits.timeout_s:,.0f} seconds. Upload it in smaller pieces."
            )
        try:
            size = process.memory_info().rss
        except psutil.NoSuchProcess:
            break
        if size > limits.memory_bytes:
            raise out_of_memory()
        time.sleep(POLL_S)
    child.wait()


def _result(work: Path, returncode: int, errors: str) -> dict[str, Any]:
    path = work / RESULT_NAME
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "error" not in result:
            return result
        error = result["error"]
        raise REFUSALS[error["code"]](error["message"], row=error["row"])
    if "MemoryError" in errors or "bad_alloc" in errors:
        raise out_of_memory()
    if returncode < 0:
        raise InvalidInputError(
            "The file is damaged in a way that stopped the program reading it. Write it again with the program that "
            "made it, and upload that."
        )
    raise RuntimeError(f"the reader ended with {returncode}: {errors[-4000:]}")


def _shown(name: str) -> str:
    """The name of a file as sentences show it: without folders, not too long."""
    name = name.replace("\\", "/").rpartition("/")[2] or "file"
    return name if len(name) <= 80 else f"{name[:40]}…{name[-39:]}"
