"""Has tables looked at and mended: small ones at once, large ones by a process of their own with limits."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from storage.artifacts import ArtifactStore
from storage.disk import DiskFullError, refusing_full_disk
from storage.doctor.examine import examine
from storage.doctor.order import Order
from storage.doctor.treat import treat
from storage.errors import InvalidInputError, StudioError, TooLargeError
from storage.tables.child import RESULT_NAME
from storage.tables.table import StoredTable

POLL_S = 0.02
ROOT = Path(__file__).parents[2]
SMALL_BYTES = 4_000_000
"""Parquet files up to this size are looked at by the process itself: starting another would take longer."""

REFUSALS: dict[str, type[StudioError]] = {kind.code: kind for kind in (InvalidInputError, TooLargeError, DiskFullError)}


@dataclass(frozen=True)
class Treated:
    """A mended table.

    Attributes:
        table: Its rows, which the store holds.
        findings: What is left to know about them.
        report: What was counted besides.
        difference: What the repairs changed.
    """

    table: StoredTable
    findings: list[dict[str, Any]]
    report: dict[str, Any]
    difference: dict[str, Any]


def look(order: Order, folder: Path) -> dict[str, Any]:
    """Looks at a table; see `storage.doctor.examine`.

    Args:
        order: The table; its repairs are left alone.
        folder: Private folder beneath which a process may work.

    Raises:
        TooLargeError: It takes too much memory or time.
    """
    if _is_small(order) or order.max_rows is not None:
        return examine(order)
    with _work_folder(folder) as work:
        return _run_child(order, work)


def try_repairs(order: Order, folder: Path) -> dict[str, Any]:
    """What repairs would change, without changing it; see `Treatment.run`.

    Raises:
        StudioError: They cannot be done.
    """
    with _work_folder(folder) as work:
        result: dict[str, Any] = _treat(order, work)["difference"]
    return result


def mend(order: Order, store: ArtifactStore, folder: Path, detected: dict[str, Any]) -> Treated:
    """Mends a table and keeps what comes out.

    Args:
        order: The table and its repairs.
        store: Where the mended rows go.
        folder: Private folder beneath which it works; nothing of it is left.
        detected: How the original was read.

    Raises:
        StudioError: It cannot be done; nothing is kept.
    """
    with _work_folder(folder) as work:
        result = _treat(order, work)
        paths = {part: work / f"{part}.parquet" for part in result["num_rows"]}
        size_bytes = sum(path.stat().st_size for path in paths.values())
        with refusing_full_disk("storing the repaired table"):
            blobs = {part: store.put_file(path) for part, path in paths.items()}
    table = StoredTable(
        blobs=blobs,
        columns=result["columns"],
        num_rows=result["num_rows"],
        size_bytes=size_bytes,
        content_hash=result["content_hash"],
        detected=detected,
    )
    return Treated(table, result["findings"], result["report"], result["difference"])


def _treat(order: Order, work: Path) -> dict[str, Any]:
    return treat(order, work) if _is_small(order) else _run_child(order, work)


def _is_small(order: Order) -> bool:
    return sum(path.stat().st_size for path in order.paths.values()) <= SMALL_BYTES


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = Path(tempfile.mkdtemp(prefix="mend-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_child(order: Order, work: Path) -> dict[str, Any]:
    request = work / "order.json"
    request.write_text(json.dumps(order.to_dict()), encoding="utf-8")
    with (work / "errors.txt").open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "storage.doctor.child", str(request)],
            cwd=ROOT,
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            _watch(child, order)
        finally:
            child.kill()
            child.wait()
    return _result(work, child.returncode)


def _watch(child: subprocess.Popen[bytes], order: Order) -> None:
    deadline = time.monotonic() + order.limits.timeout_s
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            is_too_large = process.memory_info().rss > order.limits.memory_bytes
        except psutil.NoSuchProcess:
            break
        if is_too_large or time.monotonic() > deadline:
            raise TooLargeError("Looking through the table takes too much memory or time. Bring fewer rows of it.")
        time.sleep(POLL_S)
    child.wait()


def _result(work: Path, returncode: int) -> dict[str, Any]:
    path = work / RESULT_NAME
    if not path.exists():
        errors = (work / "errors.txt").read_text(encoding="utf-8", errors="replace")
        if "MemoryError" in errors or "bad_alloc" in errors:
            raise TooLargeError("Looking through the table takes too much memory. Bring fewer rows of it.")
        raise RuntimeError(f"the doctor ended with {returncode}: {errors[-4000:]}")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        raise REFUSALS[result["error"]["code"]](result["error"]["message"])
    return result
