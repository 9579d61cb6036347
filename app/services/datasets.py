"""Datasets as the page and REST see them: uploaded, described, changed, removed."""

import random
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.dataset_body import NUM_SAMPLES, described, is_blocked, rendered, summary
from app.services.mapping import complete_mapping, mapping_findings, render_sample
from storage import datasets as stored
from storage.errors import InvalidInputError, NotFoundError
from storage.rows import read_rows, usable_indices
from storage.tables.findings import Finding, row_findings
from storage.tables.guess import guess_mapping
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import parse_upload
from storage.tables.parts import PART_WORDS, assign_parts
from storage.tables.preview import distinct_values, sample_rows
from storage.tables.table import Part, StoredTable
from worker.engine.rendering import template_columns

GUESS_ROWS = 2000
LIVE_ROWS = 20_000
"""Rows that are looked at while a user writes; all of them are once the mapping is kept."""

STALE_AFTER_S = 3600.0


def upload(
    context: AppContext,
    files: Sequence[tuple[str, Path]],
    mapping: Mapping[str, Any] | None,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reads files into a new dataset; nothing is left of them where they are refused.

    Args:
        context: The open stores.
        files: Name and place of each: one table, or one file each for train, validation and test.
        mapping: Fields of the mapping that are known; the others are guessed.
        name: Name of the dataset; that of the file by default.
        options: `encoding`, `delimiter`, `header`, where the guess went wrong.

    Returns:
        What `describe` returns.

    Raises:
        StudioError: The files are no table, or the mapping does not fit it.
    """
    folder = uploads_folder(context)
    _sweep(folder)
    table = parse_upload(
        files,
        context.store,
        folder=folder,
        limits=Limits(max_file_bytes=context.settings.max_upload_bytes),
        options=ReadOptions.from_dict(dict(options or {})),
        accept=lambda columns: _refuse_misfit(mapping or {}, columns),
    )
    whole = complete_mapping(mapping or {}, _guess(context, table))
    found = _findings(context, table.blobs, table.columns, whole)
    with context.database.write() as session:
        dataset, version = stored.create_dataset(session, name or _name_of(files), table, whole, found)
    return described(context, dataset, version)


def describe(context: AppContext, dataset_id: str) -> dict[str, Any]:
    """Everything about a dataset: columns, rows, mapping, findings, rendered samples, its first rows.

    Raises:
        NotFoundError: There is no such dataset.
    """
    with context.database.read() as session:
        dataset, version = stored.get_dataset(session, dataset_id)
    return described(context, dataset, version)


def listing(context: AppContext) -> list[dict[str, Any]]:
    """Every dataset, the newest first, without its rows."""
    with context.database.read() as session:
        return [summary(dataset, version) for dataset, version in stored.list_datasets(session)]


def change(context: AppContext, dataset_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Renames a dataset, or gives it another mapping in a new version; earlier versions stay as they are.

    Args:
        context: The open stores.
        dataset_id: The dataset.
        changes: `name`, or `mapping` with the fields that change, or both.

    Raises:
        StudioError: There is no such dataset, or it cannot be changed so.
    """
    unknown = sorted(set(changes) - {"name", "mapping"})
    if unknown:
        raise InvalidInputError(f"A dataset has no field {unknown[0]!r} to change; it has name and mapping.")
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    mapping, found = None, None
    if "mapping" in changes:
        mapping = complete_mapping(changes["mapping"], version.mapping)
        _refuse_blocked(mapping_findings(mapping, version.columns))
        if mapping == version.mapping:
            mapping = None
        else:
            found = _findings(context, version.blobs, version.columns, mapping)
    with context.database.write() as session:
        if "name" in changes:
            stored.rename_dataset(session, dataset_id, str(changes["name"]))
        if mapping is not None:
            stored.add_version(session, dataset_id, mapping=mapping, findings=found)
    return describe(context, dataset_id)


def remove(context: AppContext, dataset_id: str) -> dict[str, Any]:
    """Deletes a dataset with all its versions.

    Raises:
        StudioError: There is no such dataset, or a job that has not ended needs it.
    """
    with context.database.write() as session:
        stored.delete_dataset(session, dataset_id)
    return {"id": dataset_id, "deleted": True}


def render_samples(context: AppContext, dataset_id: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping would make of a dataset: `samples`, `findings`, `blocked`. Nothing is stored.

    Raises:
        StudioError: There is no such dataset, or a field of the mapping is not of its kind.
    """
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    whole = complete_mapping(mapping, version.mapping)
    found = _findings(context, version.blobs, version.columns, whole, max_rows=LIVE_ROWS)
    rows = read_rows(context.store, version, "train", 0, NUM_SAMPLES)
    return {"samples": rendered(rows, whole, version.columns), "findings": found, "blocked": is_blocked(found)}


def random_validation_row(context: AppContext, version_id: str, seed: int) -> dict[str, Any]:
    """A row that no training on this version sees, drawn by `seed`.

    Returns:
        `fields` (all its cells by column), `prompt`, `target`, and `row`, its number in its part counted from 1.

    Raises:
        NotFoundError: There is no such version, or it keeps no row for validation.
    """
    with context.database.read() as session:
        version = stored.get_version(session, version_id)
    indices = usable_indices(context.store, version, "validation")
    if not indices:
        raise NotFoundError("This dataset keeps no row for validation. Raise the share that is held out.")
    part: Part = "validation" if "validation" in version.blobs else "train"
    index = random.Random(seed).choice(indices)
    row = read_rows(context.store, version, part, index, index + 1)[0]
    return {"fields": row, **render_sample(row, version.mapping, index + 1)}


def uploads_folder(context: AppContext) -> Path:
    """The private folder in which uploads wait and are read."""
    folder = context.settings.home / "uploads"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _sweep(folder: Path) -> None:
    """Deletes what a killed process left; nothing that is in use is that old."""
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue


def _guess(context: AppContext, table: StoredTable) -> dict[str, Any]:
    store, blob = context.store, table.blobs["train"]
    rows = sample_rows(store, blob, GUESS_ROWS)
    return guess_mapping(table.columns, rows, lambda column, limit: distinct_values(store, blob, column, limit))


def _refuse_misfit(mapping: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Refuses a mapping for a table with other columns, before the table is kept."""
    fitting = {
        "template": f"{{{columns[0]}}}",
        "target": columns[-1],
        "instruction": "",
        "validation_fraction": 0.1,
        "seed": 0,
        "rendering": "auto",
    }
    whole = complete_mapping(mapping, fitting)
    given = {"template": "invalid_template", "target": "unknown_target"}
    codes = {code for name, code in given.items() if name in mapping}
    _refuse_blocked([found for found in mapping_findings(whole, columns) if found["code"] in codes])


def _refuse_blocked(found: Sequence[Finding]) -> None:
    blocking = next((one for one in found if one["severity"] == "blocks"), None)
    if blocking is not None:
        raise InvalidInputError(blocking["message"])


def _findings(
    context: AppContext,
    blobs: Mapping[Any, str],
    columns: Sequence[str],
    mapping: Mapping[str, Any],
    *,
    max_rows: int | None = None,
) -> list[Finding]:
    found = mapping_findings(mapping, columns)
    if is_blocked(found):
        return found
    prompt = template_columns(mapping["template"])
    return found + row_findings(context.store, blobs, columns, prompt, mapping["target"], max_rows=max_rows)


def _name_of(files: Sequence[tuple[str, Path]]) -> str:
    """The name of a dataset: that of its file, or what the names of its files share."""
    names = [name.replace("\\", "/").rpartition("/")[2] for name, _ in files]
    if len(names) > 1:
        words = [word for word in re.split(r"[^\w]+|_", names[0].partition(".")[0]) if word]
        shared = " ".join(word for word in words if word.lower() not in PART_WORDS)
        return shared or ", ".join(names[index] for index in assign_parts(names).values())[:200]
    return "".join(character for character in names[0] if character.isprintable())[:200].strip() or "table"
