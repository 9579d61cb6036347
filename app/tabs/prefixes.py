"""The Prefixes tab: the library of trained prefixes, and what is kept on this machine."""

from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models, prefixes
from app.tabs.answer_panel import PREFIX_SHOWN, AnswerPanel
from app.tabs.house import HousePanel
from app.ui import markup, prefix_view
from app.ui.pieces import LATEST, guarded, html_piece, picked, sentence

Updates = tuple[Any, ...]


class PrefixesTab:
    """The library and the chosen prefix."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.chosen = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                self.cards = html_piece(elem_id="prefix-cards")
                self.upload = gr.UploadButton("Import a prefix (zip)", file_types=[".zip"], elem_id="prefix-import")
                self.notice = html_piece(elem_id="prefix-notice")
                with gr.Accordion("The prefix comes from another program", open=False):
                    self.foreign_base = gr.Dropdown(
                        [],
                        value=None,
                        label="Its base model",
                        info="Such a file does not say which one it belongs to.",
                        elem_id="prefix-foreign-base",
                    )
            with gr.Column(scale=5, min_width=320, visible=False) as self.column:
                self._build_detail()
        with gr.Accordion("Kept on this machine: data, base models, disk use", open=False) as self.house_fold:
            self.house = HousePanel(context)

    def _build_detail(self) -> None:
        self.detail = html_piece(elem_id="prefix-detail")
        with gr.Row(elem_classes="ps-tight"):
            self.compare = gr.Button("Compare", variant="primary", size="md", min_width=96, elem_id="prefix-compare")
            self.download = gr.Button("Download", size="md", min_width=96, elem_id="prefix-download")
            self.delete = gr.Button("Delete…", size="md", min_width=96, elem_id="prefix-delete")
        self.with_rows = gr.Checkbox(
            False,
            label="Put sample rows of my data into the download",
            container=False,
            elem_id="prefix-with-rows",
        )
        with gr.Group(visible=False) as self.delete_choice:
            gr.HTML(markup.notice("Delete this prefix? It cannot be brought back, but a downloaded copy can.", "warn"))
            with gr.Row():
                self.keep = gr.Button("Keep it")
                self.confirm = gr.Button("Delete", variant="stop", elem_id="prefix-delete-confirm")
        self.answers = AnswerPanel(self.context, self.chosen)
        with gr.Row(equal_height=False, elem_classes="ps-ends"):
            self.name = gr.Textbox(label="Name", max_lines=1, max_length=80, scale=4, elem_id="prefix-name")
            self.rename = gr.Button("Rename", size="md", scale=1, min_width=96, elem_id="prefix-rename")
        self.snippet = html_piece(elem_id="prefix-load")

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [
            self.chosen, self.cards, self.foreign_base, self.column, self.detail, self.name, self.snippet,
            self.download, self.with_rows, *self.answers.shown,
        ]  # fmt: skip

    def wire(self) -> None:
        """Ties what the user does to the services."""
        self.cards.select(guarded(self.choose), None, self.shown, **LATEST, concurrency_id=PREFIX_SHOWN)
        self.with_rows.input(guarded(self._address), [self.chosen, self.with_rows], self.download, **LATEST)
        given = [self.upload, self.chosen, self.foreign_base]
        self.upload.upload(guarded(self.take_zip), given, [*self.shown, self.notice])
        renamed = self.rename.click(guarded(self._rename), [self.chosen, self.name], None)
        renamed.success(guarded(self.show), self.chosen, self.shown)
        self.delete.click(lambda: gr.Group(visible=True), None, self.delete_choice)
        self.keep.click(lambda: gr.Group(visible=False), None, self.delete_choice)
        gone = self.confirm.click(guarded(self._remove), self.chosen, self.delete_choice)
        gone.success(guarded(self.show), self.chosen, self.shown)
        self.answers.wire()
        self.house.wire()
        self.house_fold.expand(guarded(self.house.show), None, self.house.shown)

    def choose(self, event: gr.EventData) -> Updates:
        """Shows the prefix whose card was pressed."""
        return self.show(picked(event)[1])

    def show(self, chosen: str | None) -> Updates:
        """Lists the library and one prefix of it."""
        listed = prefixes.listing(self.context)
        known = [each["id"] for each in listed]
        chosen = chosen if chosen in known else next(iter(known), None)
        bases = [each["name"] for each in base_models.listing(self.context) if each["download_state"] == "ready"]
        cards = prefix_view.library(listed, chosen), gr.Dropdown(choices=bases)
        if chosen is None:
            return None, *cards, gr.Column(visible=False), "", "", "", gr.skip(), False, *self.answers.show(None)
        prefix = prefixes.describe(self.context, chosen)
        return (
            chosen,
            *cards,
            gr.Column(visible=True),
            prefix_view.detail(prefix),
            prefix["name"],
            prefix_view.snippet(prefixes.load_snippet(self.context, chosen)),
            self._address(chosen, False),
            False,
            *self.answers.show(chosen),
        )

    def take_zip(self, path: str, chosen: str | None, base_model: str | None) -> Updates:
        """Imports a prefix; the copy in the page's cache is deleted in any case."""
        try:
            imported = prefixes.import_zip(self.context, Path(path), base_model or None)
        except Exception as fault:
            return (*self.show(chosen), markup.notice(sentence(fault), "bad"))
        finally:
            Path(path).unlink(missing_ok=True)
        return (*self.show(imported["id"]), markup.notice(f"{imported['name']} is in the library.", "good"))

    def _rename(self, prefix_id: str, name: str) -> None:
        prefixes.rename(self.context, prefix_id, name)

    def _remove(self, prefix_id: str) -> Any:
        prefixes.remove(self.context, prefix_id)
        return gr.Group(visible=False)

    @staticmethod
    def _address(prefix_id: str, with_rows: bool) -> Any:
        query = "?include_rows=true" if with_rows else ""
        return gr.Button(link=f"/api/v1/prefixes/{prefix_id}/download{query}")
