"""What the doctor is asked about a version of a dataset: its files, and which columns are prompt and answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.mapping import mapping_findings
from storage.doctor.finding import Finding, Repair, counted, finding, ranked
from storage.doctor.order import Order
from storage.doctor.run import look
from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.rows import stored_path
from storage.tables.guess import guess_mapping
from storage.tables.preview import distinct_values, sample_rows
from storage.tables.view import View
from worker.engine.rendering import PLACEHOLDER, template_columns

GUESS_ROWS = 2000
LIVE_ROWS = 20_000
"""Rows that are looked at while a user writes; all of them are once the mapping is kept."""


def work_folder(context: AppContext) -> Path:
    """The private folder in which uploads wait, and in which tables are read and mended."""
    folder = context.settings.home / "uploads"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def view_of_mapping(mapping: Mapping[str, Any], columns: Sequence[str]) -> View:
    """Which columns a mapping reads."""
    used = tuple(name for name in template_columns(mapping["template"]) if name in columns)
    literal = PLACEHOLDER.sub(lambda match: "" if match[1] else "{", mapping["template"])
    return View(tuple(columns), used, mapping["target"], len(literal))


def examined(
    context: AppContext,
    blobs: Mapping[Any, str],
    columns: Sequence[str],
    mapping: Mapping[str, Any],
    *,
    detected: Mapping[str, Any] | None = None,
    max_rows: int | None = None,
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about a mapping and the rows that it reads, those that block first, and the report.

    Args:
        context: The open stores.
        blobs: SHA-256 of the Parquet file of each part.
        columns: All columns.
        mapping: The whole mapping.
        detected: How the file was read, which may have left rows out.
        max_rows: Rows of each part to look at; None looks at all.
    """
    found = mapping_findings(mapping, columns) + reading_findings(detected or {})
    if any(one["severity"] == "blocks" for one in found):
        return found, {}
    order = Order(
        paths={part: stored_path(context.store, sha256) for part, sha256 in blobs.items()},
        view=view_of_mapping(mapping, columns),
        mapping={name: mapping[name] for name in ("validation_fraction", "seed")},
        max_rows=max_rows,
    )
    seen = look(order, work_folder(context))
    return ranked(found + seen["findings"]), seen["report"]


def reading_findings(detected: Mapping[str, Any]) -> list[Finding]:
    """Rows that were left out while the files were read, because their fields fit no column."""
    found = []
    for file in detected.get("files") or [detected]:
        if told := file.get("ragged_rows"):
            message = (
                f"{counted(told['count'], 'row', 'rows')} of {file.get('name', 'the file')} with too many or too few "
                f"fields {'was' if told['count'] == 1 else 'were'} left out; the numbers are those of the file."
            )
            one = finding("ragged_rows", "warns", message, told["count"], told["rows"])
            found.append({**one, "part": file.get("part", "train"), "cases": []})
    return found


def guessed(context: AppContext, blob: str, columns: Sequence[str]) -> dict[str, Any]:
    """The mapping to start from, for the training part of a table."""
    rows = sample_rows(context.store, blob, GUESS_ROWS)
    return guess_mapping(columns, rows, lambda column, limit: distinct_values(context.store, blob, column, limit))


def repaired_mapping(
    mapping: Mapping[str, Any], columns: Sequence[str], repairs: Sequence[Repair]
) -> tuple[dict[str, Any], list[str]]:
    """The mapping and the columns that repairs of columns leave.

    Raises:
        InvalidInputError: Prompt or answer would be left without a column.
    """
    gone = {name for each in repairs if each["kind"] == "drop_columns" for name in each.get("columns", [])}
    out = {name for each in repairs if each["kind"] == "leave_out_of_prompt" for name in each.get("columns", [])}
    if mapping["target"] in gone:
        raise InvalidInputError(
            f"{quoted(mapping['target'])} is the answer, so it cannot be removed. Choose another column."
        )
    template = mapping["template"]
    if taken := (gone | out) & set(template_columns(template)):
        template = _without(template, taken)
        if not template_columns(template):
            raise InvalidInputError("The prompt would be left without a column. Put another one into it first.")
    return {**mapping, "template": template}, [name for name in columns if name not in gone]


def _without(template: str, names: set[str]) -> str:
    """A template without placeholders; a line that held nothing but one and its label goes with it."""
    lines = []
    for line in template.split("\n"):
        used = set(template_columns(line))
        if not used & names:
            lines.append(line)
        elif used - names:
            lines.append(PLACEHOLDER.sub(lambda match: "" if match[1] in names else match[0], line))
    return "\n".join(lines)
