"""The comparison that a page shows: what was asked of which columns, and what came out."""

from dataclasses import dataclass
from typing import Any

from app.context import AppContext
from app.services import moments
from app.services.columns import JOB, Column, note_of, title_of
from app.ui.compare_view import Comparison, Pane

PANE_FIELDS = ("text", "tokens", "tokens_per_second", "finish_reason", "explained")


@dataclass
class Current:
    """One comparison.

    Attributes:
        base_model: The base of all columns.
        columns: As they were asked.
        request: What was asked besides.
        comparison: The answers.
    """

    base_model: str
    columns: list[Column]
    request: dict[str, Any]
    comparison: Comparison

    @property
    def is_conversation(self) -> bool:
        """Whether every column had messages of its own."""
        return any("messages" in column for column in self.columns)

    def body(self, name: str | None) -> dict[str, Any]:
        """What is kept of it."""
        kept = {"name": name, "base_model": self.base_model, "columns": self.columns, "request": self.request}
        return {**kept, "result": self.comparison.result()}


def begun(context: AppContext, base_model: str, columns: list[Column], request: dict[str, Any]) -> Current:
    """A comparison whose answers are still to come."""
    names = moments.names(context) if any(column["model"].startswith(JOB) for column in columns) else {}
    panes = [
        Pane(title_of(column, names), note_of(column, base_model), turns=column.get("messages", []))
        for column in columns
    ]
    return Current(base_model, columns, request, Comparison(panes))


def reopened(context: AppContext, told: dict[str, Any]) -> Current:
    """A comparison that was kept, as it was shown.

    Args:
        context: The open stores.
        told: What `comparisons.describe` gives.
    """
    current = begun(context, told["base_model"], told["columns"], told["request"])
    result = told["result"]
    current.comparison.prompt = result.get("prompt") or ""
    current.comparison.proof = result.get("proof") or {}
    for pane, answer in zip(current.comparison.panes, result["answers"], strict=True):
        for name in PANE_FIELDS:
            if answer.get(name) is not None:
                setattr(pane, name, answer[name])
    current.comparison.end()
    return current
