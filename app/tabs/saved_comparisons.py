"""Comparisons that were kept: listed, reopened, downloaded, deleted."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import comparisons
from app.ui import saved_view
from app.ui.pieces import html_piece, picked


class SavedComparisons:
    """The list; `wanted` holds the id of the one to open."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.wanted = gr.State(None)
        self.cards = html_piece(elem_id="saved-cards")

    def show(self) -> str:
        """The list as it stands."""
        return saved_view.cards(comparisons.listing(self.context))

    def act(self, event: gr.EventData) -> tuple[Any, Any]:
        """What a pressed button asks for: `wanted` and the list."""
        kind, target = picked(event)
        if kind == "open":
            return target, gr.skip()
        if kind == "delete":
            comparisons.remove(self.context, target)
        listed = comparisons.listing(self.context)
        return None, saved_view.cards(listed, asked=target if kind == "ask" else None)
