"""The section of a prefix's card that says whether it helps, as Markdown."""

from collections.abc import Callable
from typing import Any

from app.services import verdict

Escape = Callable[[str], str]

ROWS = (("gained", "Rows that gained most against the base"), ("lost", "Rows that lost most against the base"))


def verdict_section(evaluation: dict[str, Any] | None, sample: Callable[[dict[str, Any]], str]) -> list[str]:
    """The blocks of the section; none where nobody has compared anything.

    Args:
        evaluation: `metrics["evaluation"]`, with its rows only where they may stand in the card.
        sample: Writes one row with its answers.
    """
    if not evaluation:
        return []
    parts = ["## Does it help?", verdict.sentence(evaluation)]
    if not verdict.is_judged(evaluation):
        return parts
    parts += [_table(evaluation), verdict.savings(evaluation), " ".join(verdict.notes(evaluation))]
    rows = evaluation.get("rows") or {}
    for name, title in ROWS:
        if rows.get(name):
            parts += [f"### {title}", *[sample(row) for row in rows[name]]]
    return [part for part in parts if part]


def _table(evaluation: dict[str, Any]) -> str:
    told = verdict.table(evaluation)
    lines = [told.headers, ["---"] * len(told.headers), *told.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
