"""Comparisons that were kept, as cards, and the line that tells where one lies."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup

ADDRESS = "/api/v1/comparisons"


def cards(listed: Sequence[dict[str, Any]], asked: str | None = None) -> str:
    """All of them, the newest first.

    Args:
        listed: As `comparisons.listing` gives them.
        asked: Id of the one that is to be deleted once it is confirmed.
    """
    if not listed:
        return markup.empty("Nothing saved yet", "Compare something under One prompt, then press Save.")
    return f'<div class="ps-cards">{"".join(_card(kept, kept["id"] == asked) for kept in listed)}</div>'


def mark(comparison_id: str | None, name: str = "") -> str:
    """The line below a comparison: where it is kept; the address of the page follows it."""
    if comparison_id is None:
        return '<span data-comparison=""></span>'
    return (
        f'<p class="ps-kept-line" data-comparison="{markup.escape(comparison_id)}" role="status">'
        f"<span>Saved as {markup.isolated(name)}. The address of this page reopens it.</span>"
        f"{_files(comparison_id)}</p>"
    )


def _card(kept: dict[str, Any], is_asked: bool) -> str:
    columns = " · ".join(markup.isolated(label) for label in kept["labels"])
    day = kept["created_at"][:16].replace("T", " ")
    acts = markup.action("Open", kind="open", target=kept["id"], tone="go") + _files(kept["id"])
    acts += (
        markup.action("Keep it", kind="keep", target=kept["id"])
        + markup.action("Delete for good", kind="delete", target=kept["id"], tone="bad")
        if is_asked
        else markup.action("Delete…", kind="ask", target=kept["id"])
    )
    return (
        f'<article class="ps-kept"><div><strong>{markup.isolated(kept["name"])}</strong>'
        f"<small>{columns}</small><small>on {markup.isolated(kept['base_model'])}, {day} UTC</small></div>"
        f'<div class="ps-chips">{acts}</div></article>'
    )


def _files(comparison_id: str) -> str:
    where = f"{ADDRESS}/{markup.escape(comparison_id)}/download"
    return "".join(
        f'<a class="ps-action" href="{where}?format={form}" download>{name}</a>'
        for form, name in (("md", "Markdown"), ("json", "JSON"))
    )
