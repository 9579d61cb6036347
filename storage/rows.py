"""Rows of a version of a dataset: read from Parquet, with its validation rows drawn where the user brought none."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.artifacts import ArtifactStore
from storage.schema.dataset import DatasetVersion
from storage.stored_rows import Row, StoredRows
from storage.tables.split import Numbers, drawn_indices, numbered
from storage.tables.table import PARTS, Part
from storage.tables.view import BATCH_ROWS, View, iterate_columns


@dataclass(frozen=True)
class Parts:
    """All rows of a version, each in the part that it is used for; they are read when they are asked for."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]


def read_rows(store: ArtifactStore, version: DatasetVersion, part: Part, start: int, stop: int) -> list[Row]:
    """Rows `start` (from 0) up to `stop` (left out) of a part as it was uploaded; fewer where it ends before."""
    if part not in version.blobs or stop <= start:
        return []
    path = stored_path(store, version.blobs[part])
    return list(StoredRows(path, np.arange(start, min(stop, pq.read_metadata(path).num_rows))))


def count_rows(store: ArtifactStore, version: DatasetVersion) -> dict[Part, int]:
    """Rows of each part that can be used, the drawn validation rows counted where they are used."""
    if counted := (version.report or {}).get("counts"):
        return {part: int(counted[part]) for part in PARTS}
    return {part: len(usable_indices(store, version, part)) for part in PARTS}


def usable_indices(store: ArtifactStore, version: DatasetVersion, part: Part) -> list[int]:
    """The rows that a part is used with, in rising order: those of its file, or of `train` for a drawn validation part.

    Rows whose answer is empty are in no part: there is nothing to learn from them and nothing to compare with.
    """
    is_drawn = "validation" not in version.blobs
    stored: Part = "train" if is_drawn and part == "validation" else part
    if stored not in version.blobs:
        return []
    blank = _blank_answers(store, version, stored)
    chosen = np.flatnonzero(~blank)
    if is_drawn and stored == "train":
        drawn = validation_indices(version, len(blank), _prompt_groups(store, version))
        chosen = np.intersect1d(chosen, drawn) if part == "validation" else np.setdiff1d(chosen, drawn)
    return [int(index) for index in chosen]


def load_parts(store: ArtifactStore, version: DatasetVersion) -> Parts:
    """Every row of a version that can be used, with the drawn split applied; the order of the file is kept."""

    def chosen(part: Part) -> Sequence[Row]:
        stored: Part = "train" if part == "validation" and part not in version.blobs else part
        if stored not in version.blobs:
            return []
        return StoredRows(stored_path(store, version.blobs[stored]), usable_indices(store, version, part))

    return Parts(train=chosen("train"), validation=chosen("validation"), test=chosen("test"))


def validation_indices(version: DatasetVersion, num_rows: int, groups: Numbers | None = None) -> list[int]:
    """The rows of the training part that are kept for validation; see `storage.tables.split`."""
    return drawn_indices(version.mapping, num_rows, groups)


def view_of(mapping: Mapping[str, Any], columns: Sequence[str]) -> View:
    """Which columns a mapping reads; a template that names none of them leaves the prompt empty."""
    template = str(mapping.get("template") or "")
    used = tuple(name for name in columns if "{" + name + "}" in template)
    return View(tuple(columns), used, str(mapping.get("target") or ""))


def stored_path(store: ArtifactStore, sha256: str) -> Path:
    """Where a stored table lies.

    Raises:
        NotFoundError: It is no longer kept.
    """
    store.open(sha256).close()
    return store.path(sha256)


def _prompt_groups(store: ArtifactStore, version: DatasetVersion) -> Numbers | None:
    """A number for every row of the training part, the same for rows whose prompts are made of the same cells."""
    path = stored_path(store, version.blobs["train"])
    view = view_of(version.mapping, pq.read_schema(path).names)
    if not view.prompt:
        return None
    hashes = array("q")
    for batch in iterate_columns(path, view.prompt):
        hashes.extend(map(hash, zip(*batch, strict=True)))
    return numbered(np.array(hashes, dtype=np.int64)) if hashes else None


def _blank_answers(store: ArtifactStore, version: DatasetVersion, part: Part) -> npt.NDArray[np.bool_]:
    """Whether the answer of each stored row is empty; only that one column is read, a batch at a time."""
    target = version.mapping.get("target")
    with store.open(version.blobs[part]) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        if target not in parquet.schema_arrow.names:
            return np.zeros(parquet.metadata.num_rows, dtype=bool)
        blank = [np.zeros(0, dtype=bool)]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=[target], use_threads=False):
            trimmed = pc.utf8_trim_whitespace(pc.fill_null(batch.column(0), ""))
            blank.append(np.asarray(pc.equal(trimmed, "").to_numpy(zero_copy_only=False), dtype=bool))
    return np.concatenate(blank)
