"""Rows of a version of a dataset: read from Parquet, with its validation rows drawn where the user brought none."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.artifacts import ArtifactStore
from storage.schema.dataset import DatasetVersion
from storage.tables.table import PARTS, Part

Row = dict[str, str]
Groups = npt.NDArray[np.int64]

DEFAULT_VALIDATION_FRACTION = 0.1
MAX_VALIDATION_ROWS = 500
"""A drawn validation part is no larger, since every look at it takes time from the training."""


@dataclass(frozen=True)
class Parts:
    """All rows of a version, each in the part that it is used for."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]


def read_rows(store: ArtifactStore, version: DatasetVersion, part: Part, start: int, stop: int) -> list[Row]:
    """Rows `start` (from 0) up to `stop` (left out) of a part as it was uploaded; fewer where it ends before."""
    if part not in version.blobs or stop <= start:
        return []
    with store.open(version.blobs[part]) as file:
        parquet = pq.ParquetFile(file)
        groups, first = _groups_holding(parquet.metadata, start, stop)
        table = parquet.read_row_groups(groups)
    return _rows(table.slice(start - first, stop - start))


def count_rows(store: ArtifactStore, version: DatasetVersion) -> dict[Part, int]:
    """Rows of each part that can be used, the drawn validation rows counted where they are used."""
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
    # Imported here, since it takes a second that the web role, which never loads all rows, would pay at its start.
    from datasets import Dataset as Table

    def chosen(part: Part) -> list[Row]:
        stored: Part = "train" if part == "validation" and part not in version.blobs else part
        if stored not in version.blobs:
            return []
        with store.open(version.blobs[stored]) as file:
            table = Table(pq.read_table(file))
        return [_row(row) for row in table.select(usable_indices(store, version, part))]

    return Parts(train=chosen("train"), validation=chosen("validation"), test=chosen("test"))


def validation_indices(version: DatasetVersion, num_rows: int, groups: Groups | None = None) -> list[int]:
    """The rows of the training part that are kept for validation, in rising order: always the same for one version.

    Args:
        version: Its mapping holds `validation_fraction` and `seed`.
        num_rows: Rows of its training part.
        groups: Number of each row's prompt, where prompts repeat. Rows of one prompt are kept together, since a prompt
            that was trained on says little about new ones.

    Returns:
        Indices from 0. A table of two rows or more gives and keeps at least one; a fraction of 0 gives none.
    """
    fraction = version.mapping.get("validation_fraction")
    fraction = DEFAULT_VALIDATION_FRACTION if fraction is None else float(fraction)
    if num_rows < 2 or fraction <= 0:
        return []
    count = min(max(1, round(num_rows * fraction)), MAX_VALIDATION_ROWS, num_rows - 1)
    # The legacy generator is the one whose numbers are promised to stay the same in later releases of numpy.
    generator = np.random.RandomState(int(version.mapping.get("seed") or 0))
    if groups is not None and (kept := _whole_groups(groups, count, generator)):
        return kept
    return sorted(int(index) for index in generator.permutation(num_rows)[:count])


def _whole_groups(groups: Groups, count: int, generator: np.random.RandomState) -> list[int]:
    """Rows of whole groups, at most `count`; none where no prompt repeats or each comes too often."""
    sizes = np.bincount(groups)
    if len(sizes) == len(groups):
        return []
    order = generator.permutation(len(sizes))
    order = order[sizes[order] <= count]
    taken = order[: int(np.searchsorted(sizes[order].cumsum(), count, side="right"))]
    return [int(index) for index in np.flatnonzero(np.isin(groups, taken))]


def _prompt_groups(store: ArtifactStore, version: DatasetVersion) -> Groups | None:
    """A number for every row of the training part, the same for rows whose prompts are made of the same cells."""
    template = str(version.mapping.get("template") or "")
    with store.open(version.blobs["train"]) as file:
        parquet = pq.ParquetFile(file)
        used = [name for name in parquet.schema_arrow.names if "{" + name + "}" in template]
        if not used or parquet.metadata.num_rows == 0:
            return None
        table = parquet.read(used)
    cells = [pc.cast(pc.fill_null(table.column(name), ""), pa.large_string()) for name in used]
    prompts = pc.binary_join_element_wise(*cells, pa.scalar("\x1f", pa.large_string()))
    return np.asarray(prompts.combine_chunks().dictionary_encode().indices.to_numpy(), dtype=np.int64)


def _blank_answers(store: ArtifactStore, version: DatasetVersion, part: Part) -> npt.NDArray[np.bool_]:
    """Whether the answer of each stored row is empty; only that one column is read."""
    target = version.mapping.get("target")
    with store.open(version.blobs[part]) as file:
        parquet = pq.ParquetFile(file)
        if target not in parquet.schema_arrow.names:
            return np.zeros(parquet.metadata.num_rows, dtype=bool)
        cells = parquet.read([target]).column(0)
    trimmed = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
    return np.asarray(pc.equal(trimmed, "").to_numpy(zero_copy_only=False), dtype=bool)


def _groups_holding(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """Row groups that hold rows `start` to `stop`, and the index of the first row in them."""
    groups: list[int] = []
    first = end = 0
    for group in range(metadata.num_row_groups):
        begin, end = end, end + metadata.row_group(group).num_rows
        if begin < stop and end > start:
            first = first if groups else begin
            groups.append(group)
    return groups, first


def _rows(table: pa.Table | pa.RecordBatch) -> list[Row]:
    return [_row(row) for row in table.to_pylist()]


def _row(cells: dict[str, str | None]) -> Row:
    return {name: "" if cell is None else str(cell) for name, cell in cells.items()}
