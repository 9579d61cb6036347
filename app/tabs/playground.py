"""The Playground: which columns, then one prompt, many rows, a blind vote, or what was saved."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models, prefixes
from app.services.columns import FULL_STRENGTH, column_of, key_of
from app.tabs.columns_panel import Choice, ColumnsPanel
from app.tabs.one_prompt import OnePrompt
from app.tabs.prompt_panel import FIELDS
from app.ui.pieces import guarded

Updates = tuple[Any, ...]


class PlaygroundTab:
    """The columns, which hold for all that is below, and the ways to ask them."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.columns = ColumnsPanel(context)
        with gr.Tabs(elem_id="play-tabs") as self.tabs:
            with gr.Tab("One prompt", id="one"):
                self.one = OnePrompt(context, self.columns)
            with gr.Tab("Many rows", id="many") as self.many_tab:
                pass
            with gr.Tab("Blind vote", id="blind") as self.blind_tab:
                pass
            with gr.Tab("Saved", id="saved") as self.saved_tab:
                pass
        self.running = self.one.running

    @property
    def inputs(self) -> list[Any]:
        """What `visit` takes."""
        return [*self.columns.inputs, self.one.prompt_panel.kind, self.columns.source]

    @property
    def form(self) -> list[Any]:
        """What `show` fills."""
        return [*self.columns.shown, *self.one.prompt_panel.shown]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        columns = self.columns
        for control in (columns.base, columns.chosen, self.one.prompt_panel.kind):
            control.input(guarded(self.show), self.inputs[:-1], self.form, show_progress="hidden")
        self.one.wire()

    def show(self, base: str | None, chosen: list[str] | None, percent: int, kind: str) -> Updates:
        """Offers the columns there are, and the fields of the first chosen prefix."""
        return self._shown(self.columns.choice(base, chosen), percent, kind)

    def show_prefix(self, prefix_id: str) -> Updates:
        """A prefix beside its base."""
        prefix = prefixes.describe(self.context, prefix_id)
        chosen = [key_of(column_of(prefix["base_model"])), key_of(column_of(prefix["name"]))]
        return self.show(prefix["base_model"], chosen, FULL_STRENGTH, FIELDS)

    def visit(
        self, base: str | None, chosen: list[str] | None, percent: int, kind: str, source: dict[str, Any] | None
    ) -> Updates:
        """Looks for new prefixes when the tab is opened; what the user has filled in already stays."""
        choice = self.columns.choice(base, chosen)
        if source is None or choice.source != source:
            return self._shown(choice, percent, kind)
        columns = self.columns.show(choice, percent)
        return gr.skip(), *columns[1:3], *[gr.skip()] * (len(self.form) - 3)

    def _shown(self, choice: Choice, percent: int, kind: str) -> Updates:
        base = base_models.describe(self.context, choice.base) if choice.base else {}
        return *self.columns.show(choice, percent), *self.one.prompt_panel.show(
            choice.source, kind, bool(base.get("has_chat_template"))
        )
