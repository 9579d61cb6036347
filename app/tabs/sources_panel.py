"""Where examples come from: a file, one that was brought before, a built-in set, or a dataset of the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.examples.catalog import EXAMPLES
from app.services import datasets, reading
from app.ui import data_view, markup
from app.ui.pieces import html_piece
from storage.errors import StudioError

FILE_TYPES = [".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".xlsx", ".gz", ".zip"]
LARGE_BYTES = 2_000_000
"""From this size on the first rows are shown before the whole file is read."""


class SourcesPanel:
    """The fields, and the datasets that they lead to."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        gr.HTML(
            '<p class="ps-lead">Bring a table with one example per row: what the model is given, and the answer it '
            "should write. CSV, TSV, JSON, JSONL, Parquet and Excel work as they are, and so do conversations.</p>",
            apply_default_css=False,
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280):
                self.file = gr.File(
                    label="Your table", file_count="multiple", file_types=FILE_TYPES, height=190, elem_id="train-file"
                )
                self.earlier = gr.Dropdown(
                    [], value=None, label="Or one you brought before", visible=False, elem_id="train-earlier"
                )
            with gr.Column(scale=2, min_width=280):
                cards = data_view.example_cards([(each.key, each.title, each.sentence) for each in EXAMPLES])
                self.examples = html_piece(cards, elem_id="train-examples", visible=bool(EXAMPLES))
        with (
            gr.Accordion("A dataset of the Hugging Face hub", open=False, elem_id="train-hub-fold"),
            gr.Row(equal_height=False, elem_classes="ps-ends"),
        ):
            self.hub_id = gr.Textbox(
                label="Its id", placeholder="owner/name", max_lines=1, scale=4, elem_id="train-hub-dataset"
            )
            self.subset = gr.Textbox(label="Subset, where it has several", max_lines=1, scale=2)
            self.fetch = gr.Button("Fetch", size="md", scale=1, min_width=96, elem_id="train-fetch-dataset")

    def read(self, files: Sequence[Path], options: dict[str, Any]) -> dict[str, Any]:
        """Reads files that were dropped into a new dataset.

        Raises:
            StudioError: They are no table.
        """
        return datasets.upload(self.context, [(path.name, path) for path in files], None, options=options)

    def first_rows(self, files: Sequence[Path], options: dict[str, Any]) -> str | None:
        """What is shown while large files are read: their first rows; None for files that are read at once."""
        size = sum(path.stat().st_size for path in files)
        if size <= LARGE_BYTES:
            return None
        told = data_view.reading(files[0].name, size)
        try:
            seen = reading.preview(self.context, [(path.name, path) for path in files], options)
        except StudioError:
            # Reading the whole says it better, and with the row.
            return told
        return told + data_view.preview({"name": files[0].name, "columns": seen["columns"], "preview": seen["rows"]})

    def from_example(self, key: str) -> dict[str, Any]:
        """One of the built-in data sets, as if it had been uploaded."""
        example = next(each for each in EXAMPLES if each.key == key)
        known = [each for each in datasets.listing(self.context) if each["name"] == example.title]
        if known:
            return datasets.describe(self.context, known[0]["id"])
        files = [(path.name, path) for path in example.files]
        return datasets.upload(self.context, files, example.mapping, name=example.title)

    def from_hub(self, hub_id: str, subset: str | None) -> dict[str, Any]:
        """A dataset of the hub, fetched and read.

        Raises:
            StudioError: It cannot be had, or read.
        """
        return reading.add_hub_dataset(self.context, (hub_id or "").strip(), subset=(subset or "").strip() or None)

    def list_earlier(self) -> Any:
        """The datasets that were uploaded before, newest first."""
        choices = [
            (f"{markup.isolated_text(each['name'])}, {markup.count(each['num_rows'], 'row')}", each["id"])
            for each in datasets.listing(self.context)
        ]
        return gr.Dropdown(choices=choices, value=None, visible=bool(choices))
