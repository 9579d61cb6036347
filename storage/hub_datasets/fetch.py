"""A dataset of the Hugging Face Hub as files on this disk, fetched by a child process."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.bases.hub import GatedModelError, HubUnreachableError, check_hub_id
from storage.disk import DiskFullError
from storage.errors import InvalidInputError, NotFoundError, StudioError, TooLargeError
from storage.hub_datasets.child import PROGRESS_NAME, RESULT_NAME
from storage.tables.table import Part

POLL_S = 0.1
TIMEOUT_S = 3600.0
ROOT = Path(__file__).parents[2]
REFUSALS: dict[str, type[StudioError]] = {
    kind.code: kind
    for kind in (InvalidInputError, NotFoundError, TooLargeError, DiskFullError, HubUnreachableError, GatedModelError)
}

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class FetchedDataset:
    """What was fetched.

    Attributes:
        hub_id: Its id, as the hub spells it.
        revision: The commit.
        subset: Its subset; empty where there is only one.
        parts: The Parquet files of each part in their order.
    """

    hub_id: str
    revision: str
    subset: str
    parts: dict[Part, list[Path]]


@contextmanager
def fetched_dataset(
    hub_id: str,
    folder: Path,
    *,
    subset: str | None = None,
    max_bytes: int,
    endpoint: str | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[FetchedDataset]:
    """Fetches a dataset for as long as the block runs; its files go when it ends.

    Args:
        hub_id: As a user typed it.
        folder: Private folder beneath which the files lie.
        subset: One of its subsets; needed where it has several.
        max_bytes: The most that its files may have together.
        endpoint: Address of the hub; huggingface_hub's own by default.
        on_progress: Told the bytes so far and in all now and then; what it raises ends the download.

    Raises:
        StudioError: It cannot be had; the sentence says why and what else to do.
    """
    hub_id = check_hub_id(hub_id)
    with tempfile.TemporaryDirectory(prefix="hub-", dir=folder) as name:
        work = Path(name)
        request = work / "request.json"
        told = {"hub_id": hub_id, "subset": subset or None, "max_bytes": max_bytes, "endpoint": endpoint}
        request.write_text(json.dumps(told), encoding="utf-8")
        with (work / "errors.txt").open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "storage.hub_datasets.child", str(request)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                _watch(child, work, on_progress)
            finally:
                child.kill()
                child.wait()
        result = _result(work)
        parts = {part: [Path(path) for path in paths] for part, paths in result["parts"].items()}
        yield FetchedDataset(result["hub_id"], result["revision"], result["subset"], parts)


def _watch(child: subprocess.Popen[bytes], work: Path, on_progress: OnProgress | None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while child.poll() is None:
        if time.monotonic() > deadline:
            raise TooLargeError(
                f"The download took longer than {TIMEOUT_S / 60:,.0f} minutes. Choose a smaller subset, or a file."
            )
        if on_progress is not None and (work / PROGRESS_NAME).exists():
            progress = json.loads((work / PROGRESS_NAME).read_text(encoding="utf-8"))
            on_progress(progress["downloaded_bytes"], progress["total_bytes"])
        time.sleep(POLL_S)


def _result(work: Path) -> dict[str, Any]:
    path = work / RESULT_NAME
    if not path.exists():
        raise RuntimeError(f"the download ended early: {(work / 'errors.txt').read_text(errors='replace')[-4000:]}")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        error = result["error"]
        raise REFUSALS.get(error["code"], StudioError)(error["message"])
    return result
