"""Step 1 of training: bring examples, say what is asked and what is answered, and see it rendered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import dataset_files, datasets
from app.tabs.doctor_panel import DoctorPanel
from app.tabs.reading_panel import ReadingPanel, read_options
from app.tabs.sources_panel import SourcesPanel
from app.ui import data_view, doctor_view, markup
from app.ui.pieces import LATEST, guarded, html_piece, picked, sentence
from storage.errors import InvalidInputError

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
        self.wish = gr.State(None)
        self.sources = SourcesPanel(context)
        self.notice = html_piece("", elem_id="train-notice")
        self.reading = ReadingPanel()
        self._build_mapping()

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
            self.reveal = gr.Checkbox(
                False, label="Show spaces, tabs, line ends and invisible characters", elem_id="train-reveal"
            )
            self.samples = html_piece(elem_id="train-samples")
            self.doctor = DoctorPanel(self.context)
            with gr.Accordion("First rows of the table", open=False):
                self.preview = html_piece(elem_id="train-preview")
        self.gate = html_piece(elem_id="train-gate")
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
            self.seed, self.rendering, self.chips, self.reveal, self.samples, self.preview, self.gate, self.next,
            *self.reading.fields, *self.doctor.shown,
        ]  # fmt: skip

    def wire(self) -> None:
        """Ties what the user does to the services; called once all components are there."""
        sources = self.sources
        dropped = [sources.file, self.dataset, *self.reading.fields]
        sources.file.upload(guarded(self.upload), dropped, [*self.shown, self.reading.fold, sources.file])
        sources.examples.select(guarded(self.take_example), None, self.shown, **LATEST, concurrency_id="take-data")
        sources.earlier.input(
            guarded(self.take_earlier), sources.earlier, self.shown, **LATEST, concurrency_id="take-data"
        )
        hub = [sources.hub_id, sources.subset]
        sources.fetch.click(guarded(self.take_from_hub), hub, self.shown)
        sources.hub_id.submit(guarded(self.take_from_hub), hub, self.shown)
        for option in self.reading.fields:
            option.input(
                guarded(self.read_anew), [self.dataset, *self.reading.fields], self.shown, **LATEST,
                concurrency_id="read-anew",
            )  # fmt: skip
        written = [self.dataset, self.reveal, *self.mapping_fields]
        # One event for all fields, so that the samples of the last that was written stay.
        gr.on(
            [field.input for field in (self.reveal, *self.mapping_fields)], guarded(self.render), written,
            [self.samples, self.gate, self.next, *self.doctor.live], trigger_mode="always_last",
            show_progress="hidden",
        )  # fmt: skip
        mended = [self.dataset, self.doctor.found, *self.mapping_fields]
        pressed = self.doctor.findings.select(guarded(self.press), mended, [self.wish, self.doctor.findings], **LATEST)
        pressed.success(guarded(self.repair), [self.wish, self.dataset, *self.mapping_fields], self.shown)
        self.doctor.versions.select(guarded(self.go_back), self.dataset, self.shown, **LATEST)

    def upload(self, paths: Sequence[str] | None, dataset: dict[str, Any] | None, *options: str | None) -> Any:
        """Reads the files that were dropped; the copy in the page's cache is deleted in any case.

        What was said of reading holds for a file after one that was refused; another file is looked at afresh.
        """
        files = [Path(path) for path in paths or []]
        told = {} if dataset else read_options(*options)
        try:
            if seen := self.sources.first_rows(files, told):
                yield (*self._noticed(seen), gr.skip(), gr.skip())
            read = self.sources.read(files, told)
        except Exception as fault:
            yield (*self._refused(fault), gr.Accordion(open=True), None)
        else:
            yield (*self.show(read), gr.skip(), None)
        finally:
            for path in files:
                path.unlink(missing_ok=True)

    def _noticed(self, notice: str) -> Updates:
        return tuple(notice if piece is self.notice else gr.skip() for piece in self.shown)

    def read_anew(self, dataset: dict[str, Any] | None, *options: str | None) -> Updates:
        """Reads the file of the dataset once more, as the user says; before there is one, it waits for the file."""
        if dataset is None:
            return tuple(gr.skip() for _ in self.shown)
        _, earlier = dataset_files.require_upload(self.context, dataset["id"])
        wiped = dict.fromkeys(earlier)
        return self.show(datasets.change(self.context, dataset["id"], {"options": wiped | read_options(*options)}))

    def press(self, event: gr.EventData, dataset: dict[str, Any], found: Any, *fields: Any) -> Updates:
        """A button among the findings: shows what a repair would change, closes that, or asks for the repair."""
        kind, target = picked(event)
        if kind == "repair":
            return target, gr.skip()
        if kind == "leave":
            return None, doctor_view.findings(found, dataset["num_rows"])
        return None, self.doctor.try_repairs(dataset, found, target, self.read_mapping(*fields))

    def repair(self, wish: str | None, dataset: dict[str, Any], *fields: Any) -> Updates:
        """Does the repair that was asked for, if one was."""
        if wish is None:
            return tuple(gr.skip() for _ in self.shown)
        return self.show(self.doctor.repair(dataset, wish, self.read_mapping(*fields)))

    def go_back(self, dataset: dict[str, Any], event: gr.EventData) -> Updates:
        """Goes back to the version whose button was pressed."""
        return self.show(self.doctor.go_back(dataset, picked(event)[1]))

    def take_example(self, event: gr.EventData) -> Updates:
        """Takes one of the built-in data sets, as if it had been uploaded."""
        return self.show(self.sources.from_example(picked(event)[1]))

    def take_from_hub(self, hub_id: str, subset: str | None) -> Any:
        """Takes a dataset of the hub; a refusal stands where that of a file does."""
        yield self._noticed(markup.notice("Fetching it from the hub, and reading it …"))
        try:
            fetched = self.sources.from_hub(hub_id, subset)
        except Exception as fault:
            yield self._refused(fault)
        else:
            yield self.show(fetched)

    def take_earlier(self, dataset_id: str) -> Updates:
        """Takes a dataset that was uploaded before."""
        return self.show(datasets.describe(self.context, dataset_id))

    def show(self, dataset: dict[str, Any]) -> Updates:
        """Fills the step with a dataset and its mapping."""
        mapping = dataset["mapping"]
        kept = dataset_files.kept_upload(self.context, dataset["id"])
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
            False,
            data_view.samples(dataset["samples"]),
            data_view.preview(dataset),
            *_gate(dataset["findings"]),
            *self.reading.show(dataset["detected"], kept[1] if kept else {}),
            *self.doctor.show(dataset),
        )

    def render(self, dataset: dict[str, Any] | None, reveal: bool, *fields: Any) -> Updates:
        """Renders the samples anew while the user writes; nothing is stored."""
        if dataset is None:
            return tuple(gr.skip() for _ in range(3 + len(self.doctor.live)))
        try:
            rendered = datasets.render_samples(self.context, dataset["id"], self.read_mapping(*fields))
        except Exception as fault:
            told = sentence(fault)
            return "", doctor_view.gate(told), gr.Button(interactive=False), gr.skip(), "", ""
        samples = data_view.samples(rendered["samples"], reveal=bool(reveal))
        return samples, *_gate(rendered["findings"]), *self.doctor.show_live(dataset, rendered)

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

    def _refused(self, fault: Exception) -> Updates:
        gate = doctor_view.gate("Training needs a table. Bring one that can be read.")
        told = {
            self.dataset: None,
            self.notice: markup.notice(sentence(fault), "bad"),
            self.details: gr.Column(visible=False),
            self.gate: gate,
            self.next: gr.Button(interactive=False),
        }
        return tuple(told.get(piece, gr.skip()) for piece in self.shown)


def _gate(found: Sequence[dict[str, Any]]) -> Updates:
    """Whether it goes on, and why not."""
    blocking = next((each["message"] for each in found if each["severity"] == "blocks"), None)
    return doctor_view.gate(blocking), gr.Button(interactive=blocking is None)
