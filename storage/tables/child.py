"""The process that reads uploaded files: `python -m storage.tables.child [REQUEST.json]`.

Without an argument it does its imports and waits for the path on stdin, so that an upload need not wait for them.

A file that takes too much memory or time, or that breaks a parser, ends this process and no other. The answer is
written to `result.json` beside the request.
"""

import errno
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from itertools import chain
from pathlib import Path
from typing import Any

from storage.disk import DiskFullError, refusing_full_disk
from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.tables.containers import unpacked
from storage.tables.conversations import as_conversations
from storage.tables.delimited import SEPARATOR_NAMES, DelimitedReader
from storage.tables.detect import open_reader
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parts import assign_parts, common_columns
from storage.tables.peek import peek_files
from storage.tables.plain_csv import NotPlainError
from storage.tables.readers import TableReader
from storage.tables.sources import SourceFile
from storage.tables.table import Part
from storage.tables.writer import PartWriter

RESULT_NAME = "result.json"
POLL_S = 0.5
FORMAT_NAMES = {
    "csv": "CSV",
    "tsv": "TSV",
    "json": "JSON",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "xlsx": "Excel",
}


def read_files(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Reads all files of a request and writes `train.parquet` and so on into `folder`.

    Args:
        request: `files` (`name` and `path` of each), `limits` and `options`; `parts`, where the names of the files do
            not tell them: the places of its files for each part, pieces of one table in their order.
        folder: Where the Parquet files go.

    Returns:
        `columns`, `num_rows` and `blobs` (SHA-256 of the Parquet files) by part, `content_hash` and `detected`.

    Raises:
        StudioError: The files are no table.
    """
    limits = Limits(**request["limits"])
    options = ReadOptions.from_dict(request["options"])
    uploaded = [SourceFile(Path(file["path"]), file["name"], limits) for file in request["files"]]
    if told := request.get("parts"):
        parts = {part: [uploaded[index] for index in indices] for part, indices in told.items()}
    else:
        sources = unpacked(uploaded, folder)
        parts = {part: [sources[index]] for part, index in assign_parts([each.name for each in sources]).items()}
    try:
        return _read(parts, options, folder, is_quick=True)
    except NotPlainError:
        return _read(parts, options, folder, is_quick=False)


def _read(
    parts: Mapping[Part, Sequence[SourceFile]], options: ReadOptions, folder: Path, *, is_quick: bool
) -> dict[str, Any]:
    readers = {
        part: [as_conversations(open_reader(source, options, is_quick=is_quick)) for source in sources]
        for part, sources in parts.items()
    }
    columns = common_columns([reader for each in readers.values() for reader in each])
    digest = hashlib.sha256(json.dumps(columns).encode())
    num_rows: dict[Part, int] = {}
    blobs: dict[Part, str] = {}
    for part, (reader, *more) in readers.items():
        writer = PartWriter(folder / f"{part}.parquet", columns, reader.source.name, reader.source.limits)
        if isinstance(reader, DelimitedReader) and reader.is_quick:
            own = reader.columns()
            writer.write_batches(reader.batches(), [own.index(name) for name in columns])
        else:
            writer.write(chain.from_iterable(each.rows(columns) for each in (reader, *more)))
        num_rows[part] = writer.num_rows
        blobs[part] = writer.file.sha256
        digest.update(f"{part} {writer.num_rows} ".encode() + writer.digest.digest())
    return {
        "columns": columns,
        "num_rows": num_rows,
        "blobs": blobs,
        "content_hash": digest.hexdigest(),
        "detected": _detected({part: reader for part, (reader, *_) in readers.items()}),
    }


def _detected(readers: Mapping[Part, TableReader]) -> dict[str, Any]:
    files = [{"name": reader.source.name, "part": part, **reader.detected} for part, reader in readers.items()]
    return {**readers["train"].detected, "description": _description(readers["train"].detected), "files": files}


def _description(detected: dict[str, Any]) -> str:
    """How the file was read, in a few words."""
    words = [FORMAT_NAMES[detected["format"]]]
    if detected.get("kind") == "conversation":
        words.insert(0, "conversations as")
    if len(detected.get("choices", {}).get("sheet", [])) > 1:
        words.append(f"sheet {detected['sheet']!r}")
    if detected.get("delimiter", ",") not in ",\t":
        words.append(f"separated by {SEPARATOR_NAMES.get(detected['delimiter'], repr(detected['delimiter']))}")
    if "encoding" in detected:
        words.append(f"in {detected['encoding'].upper().replace('-SIG', ' with a byte order mark')}")
    if "compression" in detected:
        words.append(f"packed with {detected['compression']}")
    if detected.get("header") is False:
        words.append("without a header")
    return " ".join(words)


def limit_memory(limits: Limits) -> None:
    """Has the system refuse this process more memory, or larger files, than the limits allow; Linux heeds all of it."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.max_unpacked_bytes, limits.max_unpacked_bytes))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))


def answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `read_files` or `peek_files` returns, or its refusal as `{"error": {"code", "message", "row"}}`."""
    try:
        with refusing_full_disk("reading the upload"):
            return peek_files(request, folder) if request.get("peek") else read_files(request, folder)
    except StudioError as error:
        return _refusal(error)
    except RecursionError:
        return _refusal(InvalidInputError("The file is nested too deep to be a table. Flatten it to named fields."))
    except MemoryError:
        return _refusal(out_of_memory())
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return _refusal(
            TooLargeError("The table takes too much room once it is unpacked. Upload a smaller part of it.")
        )


def out_of_memory() -> TooLargeError:
    """The error for a file that wants more memory than it may have."""
    return TooLargeError(
        "Reading the file takes more memory than an upload may use; one of its values is very large, or the file is "
        "damaged. Upload it as CSV or JSONL with one row a line, or in smaller pieces."
    )


def _refusal(error: StudioError) -> dict[str, Any]:
    kind = "disk_full" if isinstance(error, DiskFullError) else error.code
    return {"error": {"code": kind, "message": error.message, "row": error.row}}


def end_with_parent() -> None:
    """Ends this process soon after the one that waits for its answer; nobody else would look at it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class WithoutPandas(MetaPathFinder):
    """Has pyarrow do without pandas, which it would import for its first array: half the time of a short run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuses pandas; every other module is left to the finders that follow."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out here", name=name)


def rehearse() -> None:
    """Reads and writes a table of one row, since what Arrow does for the first time takes longer."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rehearsal.csv"
        path.write_text("text,label\na,b\n", encoding="utf-8")
        read_files(
            {"files": [{"name": path.name, "path": str(path)}], "limits": {}, "options": {}},
            Path(name),
        )


def main(arguments: list[str]) -> None:
    """Reads the request, answers it in the same folder."""
    sys.meta_path.insert(0, WithoutPandas())
    end_with_parent()
    if not arguments:
        rehearse()
    # A process that was started ahead is told its request when there is one.
    path = Path(arguments[0] if arguments else os.fsdecode(sys.stdin.buffer.readline().rstrip(b"\n")))
    if not path.name:
        return
    request = json.loads(path.read_text(encoding="utf-8"))
    limit_memory(Limits(**request["limits"]))
    result = answer(request, path.parent)
    part = path.with_name(f"{RESULT_NAME}.part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, path.with_name(RESULT_NAME))


if __name__ == "__main__":
    main(sys.argv[1:])
    # Taking everything down in order takes a fifth of a second, for which somebody would wait.
    os._exit(0)
