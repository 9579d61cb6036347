"""Small tables for tests of the doctor: stored as an upload would be, looked at, mended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactStore
from storage.doctor.examine import examine
from storage.doctor.order import Order
from storage.doctor.repairs import read_repairs
from storage.doctor.run import Treated, mend, try_repairs
from storage.tables.view import View, iterate_columns
from tests.stored import store_table

Rows = Sequence[tuple[str, ...]]

SPLIT: Mapping[str, Any] = {"validation_fraction": 0.1, "seed": 0}


def order_of(
    store: ArtifactStore, columns: Sequence[str] = ("text", "label"), prompt: Sequence[str] = ("text",), **parts: Rows
) -> Order:
    """An order to look at tables whose last column is the answer."""
    tables = {part: [dict(zip(columns, row, strict=True)) for row in rows] for part, rows in parts.items()}
    table = store_table(store, **tables)  # type: ignore[arg-type]
    paths = {part: store.path(sha256) for part, sha256 in table.blobs.items()}
    return Order(paths, View(tuple(columns), tuple(prompt), columns[-1]), SPLIT)


def find(store: ArtifactStore, **given: Any) -> dict[str, dict[str, Any]]:
    """Findings by code, with the part behind it where that is not the training part."""
    found = examine(order_of(store, **given))["findings"]
    return {one["code"] if one["part"] == "train" else f"{one['code']} {one['part']}": one for one in found}


def mended(store: ArtifactStore, folder: Path, wishes: Any, **given: Any) -> tuple[Treated, dict[str, list[list[str]]]]:
    """A table after repairs, and its rows by part; what the trial said must be what came."""
    order = order_of(store, **given)
    repairs = read_repairs(wishes, examine(order)["findings"], order.view.columns)
    order = Order(order.paths, order.view, order.mapping, repairs)
    trial = Order(order.paths, order.view, order.mapping, repairs, is_trial=True)
    tried = try_repairs(trial, folder)
    treated = mend(order, store, folder, {})
    assert treated.difference == tried
    return treated, {
        part: rows_of(store, sha256, treated.table.columns) for part, sha256 in treated.table.blobs.items()
    }


def rows_of(store: ArtifactStore, sha256: str, columns: Sequence[str]) -> list[list[str]]:
    """All rows of a stored part."""
    return [list(row) for batch in iterate_columns(store.path(sha256), columns) for row in zip(*batch, strict=True)]


def clean(count: int = 40) -> list[tuple[str, str]]:
    """Rows of two classes with which nothing is wrong."""
    return [(f"text {index}", "ab"[index % 2]) for index in range(count)]
