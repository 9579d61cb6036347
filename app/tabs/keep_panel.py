"""Saving what is compared: a name, a button, and the line that says where it lies."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import comparisons
from app.tabs.current import Current
from app.ui import saved_view
from app.ui.pieces import html_piece
from storage.errors import ConflictError
from storage.settings import MAX_NAME_CHARACTERS

Shown = dict[Any, Any]


class KeepPanel:
    """The row below the panes; it is there once something has been answered."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        with gr.Row(visible=False, equal_height=False, elem_classes="ps-ends") as self.row:
            self.name = gr.Textbox(
                label="Name",
                placeholder="the prompt's first words",
                max_lines=1,
                max_length=MAX_NAME_CHARACTERS,
                scale=4,
                min_width=200,
                elem_id="play-name",
            )
            self.save = gr.Button("Save", scale=1, min_width=96, elem_id="play-save")
        self.line = html_piece(saved_view.mark(None), elem_id="play-kept")

    @property
    def shown(self) -> list[Any]:
        """What its functions fill."""
        return [self.row, self.name, self.save, self.line]

    def offer(self) -> Shown:
        """Offers to save something new."""
        return {
            self.row: gr.Row(visible=True), self.name: "", self.save: gr.Button(interactive=True),
            self.line: saved_view.mark(None),
        }  # fmt: skip

    def wait(self) -> Shown:
        """While something new is written, there is nothing to save."""
        return {self.save: gr.Button(interactive=False), self.line: saved_view.mark(None)}

    def keep(self, current: Current | None, name: str | None) -> Shown:
        """Saves what is shown."""
        if current is None:
            raise ConflictError("There is nothing to save yet. Press Answer first.")
        return self.kept(comparisons.save(self.context, current.body(name)))

    def kept(self, told: dict[str, Any]) -> Shown:
        """Says where it lies."""
        return {
            self.row: gr.Row(visible=True), self.name: told["name"], self.save: gr.Button(interactive=False),
            self.line: saved_view.mark(told["id"], told["name"]),
        }  # fmt: skip
