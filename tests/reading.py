"""Reads files in the test's own process, as the child that reads uploads does."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from storage.tables import child
from storage.tables.limits import Limits, ReadOptions

Rows = list[dict[str, str]]


def read(
    tmp_path: Path, files: dict[str, bytes], options: ReadOptions | None = None, limits: Limits | None = None
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """What the child process would do, in this process: what it tells and the rows of each part."""
    listed = []
    for number, (name, data) in enumerate(files.items()):
        path = tmp_path / f"file{number}"
        path.write_bytes(data)
        listed.append({"name": name, "path": str(path)})
    request = {
        "files": listed,
        "limits": (limits or Limits()).to_dict(),
        "options": (options or ReadOptions()).to_dict(),
    }
    result = child.read_files(request, tmp_path)
    return result, {part: pq.read_table(tmp_path / f"{part}.parquet").to_pylist() for part in result["num_rows"]}


def rows_of(tmp_path: Path, name: str, data: bytes | str, options: ReadOptions | None = None) -> Rows:
    data = data.encode() if isinstance(data, str) else data
    return read(tmp_path, {name: data}, options)[1]["train"]
