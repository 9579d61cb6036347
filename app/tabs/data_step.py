"""Step 1 of training: bring examples, say what is asked and what is answered, and see it rendered."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.examples.catalog import EXAMPLES
from app.services import datasets
from app.ui import data_view, markup
from app.ui.pieces import guarded, html_piece, picked, sentence
from storage.errors import InvalidInputError

logger = logging.getLogger(__name__)

FILE_TYPES = [".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".gz"]
RENDERINGS = [
    ("Automatic: as the base model was made for", "auto"),
    ("Plain text", "plain"),
    ("As a chat message", "chat"),
]

Updates = tuple[Any, ...]


class DataStep:
    """The components of step 1 and what they do; `dataset` holds what the service says of the chosen data."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.dataset = gr.State(None)
        self._build_sources()
        self._build_mapping()

    def _build_sources(self) -> None:
        gr.HTML(
            '<p class="ps-lead">Bring a table with one example per row: what the model is given, and the answer it '
            "should write. CSV, TSV, JSON, JSONL and Parquet work as they are.</p>",
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
        self.notice = html_piece("", elem_id="train-notice")

    def _build_mapping(self) -> None:
        with gr.Column(visible=False) as self.details:
            self.instruction = gr.Textbox(
                label="What should the model do?",
                info="One sentence in your own words. Training starts from it. It may stay empty.",
                placeholder="Write one sentence about the restaurant.",
                lines=2,
                elem_id="train-instruction",
            )
            with gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=280):
                    self.template = gr.Textbox(
                        label="Prompt",
                        info="What the model is given. {column} stands for a cell.",
                        lines=3,
                        elem_id="train-template",
                    )
                    self.chips = html_piece()
                with gr.Column(scale=2, min_width=240):
                    self.target = gr.Dropdown(
                        [], label="Answer", info="The column that the model should write.", elem_id="train-target"
                    )
            with gr.Accordion("Advanced: split and form", open=False):
                self.fraction = gr.Slider(
                    0.02, 0.5, value=0.1, step=0.01, label="Share of rows held out to check",
                    info="Not used where you brought a validation file of your own.",
                )  # fmt: skip
                self.seed = gr.Number(0, label="Seed of the split", precision=0, minimum=0)
                self.rendering = gr.Radio(RENDERINGS, value="auto", label="How a prompt is put to the model")
            self.samples = html_piece(elem_id="train-samples")
            self.findings = html_piece(elem_id="train-findings")
            with gr.Accordion("First rows of the table", open=False):
                self.preview = html_piece(elem_id="train-preview")
        self.next = gr.Button("Continue", variant="primary", interactive=False, elem_id="train-continue-data")

    @property
    def mapping_fields(self) -> list[Any]:
        """What the user says of the data, in the order that `read_mapping` takes."""
        return [self.template, self.target, self.instruction, self.fraction, self.seed, self.rendering]

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [
            self.dataset, self.notice, self.details, self.template, self.target, self.instruction, self.fraction,
            self.seed, self.rendering, self.chips, self.samples, self.findings, self.preview, self.next,
        ]  # fmt: skip

    def wire(self) -> None:
        """Ties what the user does to the services; called once all components are there."""
        self.file.upload(guarded(self.upload), self.file, [*self.shown, self.file])
        self.examples.select(guarded(self.take_example), None, self.shown)
        self.earlier.input(guarded(self.take_earlier), self.earlier, self.shown)
        for field in self.mapping_fields:
            field.input(
                guarded(self.render),
                [self.dataset, *self.mapping_fields],
                [self.samples, self.findings, self.next],
                trigger_mode="always_last",
                show_progress="hidden",
            )

    def upload(self, paths: Sequence[str] | None) -> Updates:
        """Reads the files that were dropped; the copy in the page's cache is deleted in any case."""
        files = [Path(path) for path in paths or []]
        try:
            dataset = datasets.upload(self.context, [(path.name, path) for path in files], None)
        except Exception as fault:
            return (*self._refused(fault), None)
        finally:
            for path in files:
                path.unlink(missing_ok=True)
        return (*self.show(dataset), None)

    def take_example(self, event: gr.EventData) -> Updates:
        """Takes one of the built-in data sets, as if it had been uploaded."""
        _, key = picked(event)
        example = next(each for each in EXAMPLES if each.key == key)
        known = [each for each in datasets.listing(self.context) if each["name"] == example.title]
        if known:
            return self.show(datasets.describe(self.context, known[0]["id"]))
        files = [(path.name, path) for path in example.files]
        uploaded = datasets.upload(self.context, files, example.mapping, name=example.title)
        return self.show(uploaded)

    def take_earlier(self, dataset_id: str) -> Updates:
        """Takes a dataset that was uploaded before."""
        return self.show(datasets.describe(self.context, dataset_id))

    def show(self, dataset: dict[str, Any]) -> Updates:
        """Fills the step with a dataset and its guessed mapping."""
        mapping = dataset["mapping"]
        return (
            dataset,
            data_view.read_line(dataset),
            gr.Column(visible=True),
            mapping["template"],
            gr.Dropdown(choices=dataset["columns"], value=mapping["target"]),
            mapping["instruction"],
            mapping["validation_fraction"],
            mapping["seed"],
            mapping["rendering"],
            data_view.chips(dataset["columns"]),
            data_view.samples(dataset["samples"]),
            data_view.findings(dataset["findings"]),
            data_view.preview(dataset),
            gr.Button(interactive=not dataset["blocked"]),
        )

    def render(self, dataset: dict[str, Any] | None, *fields: Any) -> Updates:
        """Renders the samples anew while the user writes; nothing is stored."""
        if dataset is None:
            return gr.skip(), gr.skip(), gr.Button(interactive=False)
        try:
            rendered = datasets.render_samples(self.context, dataset["id"], self.read_mapping(*fields))
        except Exception as fault:
            return "", markup.notice(sentence(fault), "bad"), gr.Button(interactive=False)
        return (
            data_view.samples(rendered["samples"]),
            data_view.findings(rendered["findings"]),
            gr.Button(interactive=not rendered["blocked"]),
        )

    def keep(self, dataset: dict[str, Any] | None, *fields: Any) -> dict[str, Any]:
        """Stores the mapping as a new version where the user changed it.

        Raises:
            InvalidInputError: There is no dataset yet, or something in it blocks the training.
        """
        if dataset is None:
            raise InvalidInputError("There is no data yet. Bring a table first.")
        mapping = self.read_mapping(*fields)
        if mapping != {name: dataset["mapping"].get(name) for name in mapping}:
            dataset = datasets.change(self.context, dataset["id"], {"mapping": mapping})
        if dataset["blocked"]:
            blocking = next(each for each in dataset["findings"] if each["severity"] == "blocks")
            raise InvalidInputError(blocking["message"])
        return dataset

    def read_mapping(
        self,
        template: str | None,
        target: str,
        instruction: str | None,
        fraction: float,
        seed: float | None,
        rendering: str,
    ) -> dict[str, Any]:
        """The fields of the page as the services know them."""
        return {
            "template": template or "",
            "target": target,
            "instruction": (instruction or "").strip(),
            "validation_fraction": fraction,
            "seed": int(seed or 0),
            "rendering": rendering,
        }

    def list_earlier(self) -> Any:
        """The datasets that were uploaded before, newest first."""
        choices = [
            (f"{markup.isolated_text(each['name'])}, {markup.count(each['num_rows'], 'row')}", each["id"])
            for each in datasets.listing(self.context)
        ]
        return gr.Dropdown(choices=choices, value=None, visible=bool(choices))

    def _refused(self, fault: Exception) -> Updates:
        hidden = [gr.skip()] * (len(self.shown) - 4)
        closed = gr.Button(interactive=False)
        return None, markup.notice(sentence(fault), "bad"), gr.Column(visible=False), *hidden, closed
