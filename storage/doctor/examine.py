"""A look at a table: its findings with their first rows, and what is counted besides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.doctor.cases import with_cases
from storage.doctor.checks import table_findings
from storage.doctor.order import Order
from storage.doctor.report import table_report
from storage.doctor.scan import scan_part
from storage.tables.table import Part
from storage.tables.view import View


def examine(order: Order) -> dict[str, Any]:
    """Looks at the table of an order.

    Returns:
        `findings`, those that block first, and `report` (see `storage.doctor.report`).
    """
    return look_at(order.paths, order.view, order.mapping, max_rows=order.max_rows)


def look_at(
    paths: Mapping[Part, Path], view: View, mapping: Mapping[str, Any], *, max_rows: int | None = None
) -> dict[str, Any]:
    """Looks at files.

    Args:
        paths: The Parquet file of each part.
        view: Which columns are prompt and answer.
        mapping: Holds `validation_fraction` and `seed`.
        max_rows: Rows of each part to look at; None looks at all.
    """
    scans = {part: scan_part(path, view, max_rows=max_rows) for part, path in paths.items()}
    found = with_cases(table_findings(scans, view), paths, view)
    return {"findings": found, "report": table_report(scans, mapping, view)}
