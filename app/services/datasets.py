"""Datasets as the page and REST see them: uploaded, described, changed, removed."""

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services import dataset_files, dataset_repairs
from app.services.dataset_body import NUM_SAMPLES, described, is_blocked, rendered, summary, version_line
from app.services.dataset_order import LIVE_ROWS, examined, guessed, work_folder
from app.services.mapping import complete_mapping, mapping_findings, render_sample, without_answer
from storage import datasets as stored
from storage.doctor.finding import Finding
from storage.errors import InvalidInputError, NotFoundError
from storage.quotes import quoted
from storage.rows import read_rows, usable_indices
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import parse_upload
from storage.tables.parts import PART_WORDS, assign_parts
from storage.tables.table import Part, StoredTable

OF_ROWS = ("template", "target", "validation_fraction", "seed")
"""Fields of the mapping on which findings about rows depend."""

CHANGES = ("name", "mapping", "repairs", "options", "version")


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
    table = _parsed(context, files, options, mapping or {})
    whole = complete_mapping(mapping or {}, guessed(context, table.blobs["train"], table.columns))
    found, report = examined(context, table.blobs, table.columns, whole, detected=table.detected)
    with context.database.write() as session:
        dataset, version = stored.create_dataset(session, name or _name_of(files), table, whole, found, report)
    dataset_files.keep_upload(context, dataset.id, files, options)
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


def versions(context: AppContext, dataset_id: str) -> list[dict[str, Any]]:
    """Every version of a dataset, the newest first: its number, its rows, and what was done to get it.

    Raises:
        NotFoundError: There is no such dataset.
    """
    with context.database.read() as session:
        return [version_line(version) for version in stored.list_versions(session, dataset_id)]


def change(context: AppContext, dataset_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes a dataset; whatever concerns its rows or their use makes a new version, and earlier ones stay.

    Args:
        context: The open stores.
        dataset_id: The dataset.
        changes: `name`; `mapping` with the fields that change; `repairs` (see `dataset_repairs`), with `mapping` where
            that changed too; `options` to read the uploaded file anew; `version`, the number of one to go back to.

    Raises:
        StudioError: There is no such dataset, or it cannot be changed so.
    """
    unknown = sorted(set(changes) - set(CHANGES))
    if unknown:
        raise InvalidInputError(f"A dataset has no field {quoted(unknown[0])} to change; it has {', '.join(CHANGES)}.")
    ways = [way for way in ("options", "version") if changes.get(way) is not None]
    ways += ["repairs"] if "repairs" in changes else ["mapping"] if "mapping" in changes else []
    if len(ways) > 1:
        raise InvalidInputError(f"{ways[0]} and {ways[1]} cannot be changed together. Do one after the other.")
    with context.database.read() as session:
        stored.get_dataset(session, dataset_id)
    if "name" in changes:
        with context.database.write() as session:
            stored.rename_dataset(session, dataset_id, str(changes["name"]))
    if ways == ["options"]:
        _read_anew(context, dataset_id, changes["options"])
    elif ways == ["version"]:
        _go_back(context, dataset_id, changes["version"])
    elif ways == ["repairs"]:
        dataset_repairs.repair(context, dataset_id, changes["repairs"], changes.get("mapping"))
    elif ways == ["mapping"]:
        _change_mapping(context, dataset_id, changes["mapping"])
    return describe(context, dataset_id)


def remove(context: AppContext, dataset_id: str) -> dict[str, Any]:
    """Deletes a dataset with all its versions.

    Raises:
        StudioError: There is no such dataset, or a job that has not ended needs it.
    """
    with context.database.write() as session:
        stored.delete_dataset(session, dataset_id)
    dataset_files.forget_upload(context, dataset_id)
    return {"id": dataset_id, "deleted": True}


def render_samples(context: AppContext, dataset_id: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping would make of a dataset: `samples`, `findings`, `report`, `blocked`. Nothing is stored.

    Raises:
        StudioError: There is no such dataset, or a field of the mapping is not of its kind.
    """
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    whole = complete_mapping(mapping, version.mapping)
    found, report = version.findings, version.report
    if not report or any(whole[name] != version.mapping.get(name) for name in OF_ROWS):
        found, report = examined(
            context, version.blobs, version.columns, whole, detected=version.detected, max_rows=LIVE_ROWS
        )
    rows = read_rows(context.store, version, "train", 0, NUM_SAMPLES)
    return {
        "samples": rendered(rows, whole, version.columns),
        "findings": found,
        "report": report,
        "blocked": is_blocked(found),
    }


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
    return {"fields": without_answer(row, version.mapping), **render_sample(row, version.mapping, index + 1)}


def uploads_folder(context: AppContext) -> Path:
    """The private folder in which uploads wait and are read."""
    return work_folder(context)


def _parsed(
    context: AppContext, files: Sequence[tuple[str, Path]], options: Any, mapping: Mapping[str, Any]
) -> StoredTable:
    folder = work_folder(context)
    dataset_files.sweep_uploads(folder)
    return parse_upload(
        files,
        context.store,
        folder=folder,
        limits=Limits(max_file_bytes=context.settings.max_upload_bytes),
        options=ReadOptions.from_dict(dict(options or {})),
        accept=lambda columns: _refuse_misfit(mapping, columns),
        processes=context.readers,
    )


def _read_anew(context: AppContext, dataset_id: str, options: Any) -> None:
    """Reads the uploaded file with other options; the mapping is guessed anew where its columns are gone."""
    if not isinstance(options, Mapping):
        raise InvalidInputError(f'options is {quoted(options)}; expected an object such as {{"delimiter": ";"}}.')
    files, earlier = dataset_files.require_upload(context, dataset_id)
    whole = {name: value for name, value in {**earlier, **options}.items() if value is not None}
    table = _parsed(context, files, whole, {})
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    mapping = dict(version.mapping)
    if table.columns != version.columns:
        mapping = guessed(context, table.blobs["train"], table.columns)
    found, report = examined(context, table.blobs, table.columns, mapping, detected=table.detected)
    told = ", ".join(f"{name} {quoted(value)}" for name, value in whole.items()) or "nothing told"
    origin = {"kind": "reading", "of": version.number, "done": [f"Read the file anew with {told}."], "options": whole}
    with context.database.write() as session:
        stored.add_version(
            session, dataset_id, mapping=mapping, table=table, findings=found, report=report, origin=origin
        )
    dataset_files.keep_upload(context, dataset_id, files, whole)


def _go_back(context: AppContext, dataset_id: str, number: Any) -> None:
    if type(number) is not int:
        raise InvalidInputError(f"version is {quoted(number)}; expected the number of an earlier version.")
    with context.database.write() as session:
        stored.restore_version(session, dataset_id, number)


def _change_mapping(context: AppContext, dataset_id: str, changes: Any) -> None:
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    mapping = complete_mapping(changes, version.mapping)
    _refuse_blocked(mapping_findings(mapping, version.columns))
    if mapping == version.mapping:
        return
    found, report = examined(context, version.blobs, version.columns, mapping, detected=version.detected)
    names = [name for name in mapping if mapping[name] != version.mapping.get(name)]
    origin = {"kind": "mapping", "of": version.number, "done": [f"Changed {', '.join(names)}."]}
    with context.database.write() as session:
        stored.add_version(session, dataset_id, mapping=mapping, findings=found, report=report, origin=origin)


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


def _name_of(files: Sequence[tuple[str, Path]]) -> str:
    """The name of a dataset: that of its file, or what the names of its files share."""
    names = [name.replace("\\", "/").rpartition("/")[2] for name, _ in files]
    if len(names) > 1:
        words = [word for word in re.split(r"[^\w]+|_", names[0].partition(".")[0]) if word]
        shared = " ".join(word for word in words if word.lower() not in PART_WORDS)
        return shared or ", ".join(names[index] for index in assign_parts(names).values())[:200]
    return "".join(character for character in names[0] if character.isprintable())[:200].strip() or "table"
