"""One thing worth knowing about a table: how grave it is, which rows it names, what would mend it."""

from collections.abc import Iterable
from typing import Any, Literal

Finding = dict[str, Any]
Repair = dict[str, Any]
Severity = Literal["blocks", "warns", "notes"]

SEVERITIES: tuple[Severity, ...] = ("blocks", "warns", "notes")
MAX_ROWS_NAMED = 10
MAX_ROWS_TOLD = 5


def finding(
    code: str,
    severity: Severity,
    message: str,
    count: int = 0,
    rows: Iterable[int] = (),
    repairs: Iterable[Repair] = (),
) -> Finding:
    """One finding.

    Args:
        code: What it is, for programs.
        severity: `blocks` a training, `warns`, or `notes`.
        message: The sentence for people; the first rows are added to it.
        count: How many rows it is about.
        rows: Their numbers, counted from 1; the first few are kept.
        repairs: What would mend it, the best first; see `storage.doctor.repairs`.
    """
    named = [int(row) for row, _ in zip(rows, range(MAX_ROWS_NAMED), strict=False)]
    if len(named) == 1 == count:
        message += f" It is row {named[0]:,}."
    elif named:
        told = ", ".join(f"{row:,}" for row in named[:MAX_ROWS_TOLD])
        message += f" {'They are' if count <= MAX_ROWS_TOLD else 'The first are'} rows {told}."
    return {
        "code": code,
        "severity": severity,
        "message": message,
        "count": int(count),
        "rows": named,
        "repairs": list(repairs),
    }


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """Findings, those that block first."""
    return sorted(found, key=lambda one: SEVERITIES.index(one["severity"]))


def counted(number: int, one: str, many: str) -> str:
    """A number with its words: `1 row has`, `7,477 rows have`."""
    return f"{number:,} {one if number == 1 else many}"
