"""Files of a dataset: what was uploaded, kept for a while so that it can be read anew, and its rows as CSV."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.csv_rows import csv_chunks
from app.services.dataset_order import work_folder
from storage import datasets as stored
from storage.errors import ConflictError, NotFoundError
from storage.quotes import quoted
from storage.rows import stored_path
from storage.schema.dataset import Dataset, DatasetVersion

STALE_AFTER_S = 3600.0
NAMES = "names.json"
RAW_START = "raw-"


def keep_upload(context: AppContext, dataset_id: str, files: Sequence[tuple[str, Path]], options: Any) -> None:
    """Keeps what was uploaded for an hour, in case it was read wrongly; without room for it, it is not kept.

    Args:
        context: The open stores.
        dataset_id: The dataset that was read from it.
        files: Name and place of each file, which may vanish afterwards.
        options: The reading options that were used.
    """
    folder = _raw_folder(context, dataset_id)
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        for number, (_, path) in enumerate(files):
            _link_or_copy(path, folder / str(number))
        told = {"names": [name for name, _ in files], "options": dict(options or {})}
        (folder / NAMES).write_text(json.dumps(told), encoding="utf-8")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def kept_upload(context: AppContext, dataset_id: str) -> tuple[list[tuple[str, Path]], dict[str, Any]] | None:
    """Files that a dataset was read from and the options that were used; None where they are gone."""
    folder = _raw_folder(context, dataset_id)
    try:
        told = json.loads((folder / NAMES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return [(name, folder / str(number)) for number, name in enumerate(told["names"])], told["options"]


def require_upload(context: AppContext, dataset_id: str) -> tuple[list[tuple[str, Path]], dict[str, Any]]:
    """The same, where it is needed.

    Raises:
        ConflictError: They are gone.
    """
    kept = kept_upload(context, dataset_id)
    if kept is None:
        raise ConflictError("The uploaded file is kept for an hour only. Upload it again, with these options.")
    return kept


def forget_upload(context: AppContext, dataset_id: str) -> None:
    """Deletes what was uploaded."""
    shutil.rmtree(_raw_folder(context, dataset_id), ignore_errors=True)


def sweep_uploads(folder: Path) -> None:
    """Deletes what a killed process left, and uploads that were kept long enough."""
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue


def sweep_left(folder: Path) -> None:
    """Deletes what uploads left that a killed web role had begun; called before this one takes any."""
    for path in folder.iterdir():
        if not path.name.startswith(RAW_START):
            shutil.rmtree(path, ignore_errors=True)


def csv_file(
    context: AppContext, dataset_id: str, number: int | None, part: str = "train", *, for_spreadsheets: bool = False
) -> tuple[str, Iterator[bytes]]:
    """One part of a version as CSV in UTF-8, with the columns that it has.

    Args:
        context: The open stores.
        dataset_id: The dataset.
        number: The version; the latest by default.
        part: `train`, `validation` or `test`.
        for_spreadsheets: Whether cells that a spreadsheet would take for a formula get an apostrophe in front. Without
            it, cells are as they are, so that the file can be uploaded again.

    Returns:
        Name of the file, and its bytes, a batch of rows at a time.

    Raises:
        NotFoundError: There is no such dataset, version or part.
    """
    dataset, version = version_of(context, dataset_id, number)
    parts: Mapping[str, str] = version.blobs
    if part not in parts:
        raise NotFoundError(f"This version has no part {quoted(part)}; it has {', '.join(parts)}.")
    stem = dataset.name.removesuffix(".gz").rsplit(".", 1)[0] or "table"
    ending = f"-{part}" if len(parts) > 1 else ""
    path = stored_path(context.store, parts[part])
    return f"{stem}-v{version.number}{ending}.csv", csv_chunks(path, version.columns, for_spreadsheets=for_spreadsheets)


def version_of(context: AppContext, dataset_id: str, number: int | None) -> tuple[Dataset, DatasetVersion]:
    """A dataset with one of its versions, the latest where no number is given.

    Raises:
        NotFoundError: There is no such dataset or version.
    """
    with context.database.read() as session:
        dataset, latest = stored.get_dataset(session, dataset_id)
        versions = stored.list_versions(session, dataset_id)
    chosen = latest if number is None else next((each for each in versions if each.number == number), None)
    if chosen is None:
        raise NotFoundError(f"There is no version {number} of this dataset; it has 1 to {latest.number}.")
    return dataset, chosen


def _raw_folder(context: AppContext, dataset_id: str) -> Path:
    if not dataset_id.isalnum():
        raise NotFoundError(f"There is no dataset with the id {quoted(dataset_id)}.")
    return work_folder(context) / f"{RAW_START}{dataset_id}"


def _link_or_copy(source: Path, target: Path) -> None:
    if source == target:
        return
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
