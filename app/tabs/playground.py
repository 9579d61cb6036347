"""The Playground: one prompt, the base and the prefixes side by side, written at once from one batch."""

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import datasets, inference, prefixes
from app.tabs.running import RunningAnswers
from app.ui import compare_view, markup
from app.ui.pieces import guarded, html_piece, sentence
from storage.errors import InvalidInputError
from storage.settings import MAX_COLUMNS_COMPARED
from worker.engine.rendering import template_columns

FIELDS, RAW = "Fill the columns", "Free text"
MAX_FIELDS = 8
UPDATE_EVERY_S = 0.2
START_TIMEOUT_S = 60.0

Updates = tuple[Any, ...]


class PlaygroundTab:
    """The prompt's form and the panes; `first` holds the first chosen prefix, whose rendering holds for all columns."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.running = RunningAnswers()
        self.first = gr.State(None)
        self.prefixes = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=MAX_COLUMNS_COMPARED - 1,
            label="Prefixes to compare with their base model",
            info="The untouched base model always stands beside them.",
            elem_id="play-prefixes",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280):
                self.kind = gr.Radio([FIELDS, RAW], value=FIELDS, label="Prompt", elem_id="play-kind")
                self.fields = [
                    gr.Textbox(visible=False, label="Column", lines=2, max_lines=6, elem_id=f"play-field-{index}")
                    for index in range(MAX_FIELDS)
                ]
                self.raw = gr.Textbox(visible=False, label="Text", lines=4, elem_id="play-raw")
                self.expected = html_piece(elem_id="play-expected")
            with gr.Column(scale=2, min_width=260):
                self.random = gr.Button("A random held-out row", visible=False, elem_id="play-random")
                with gr.Accordion("Sampling", open=False):
                    self.max_tokens = gr.Slider(1, 512, value=64, step=1, label="Longest answer in tokens")
                    self.temperature = gr.Slider(
                        0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token."
                    )
                    self.top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top p")
                    self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                with gr.Row():
                    self.answer = gr.Button("Answer", variant="primary", elem_id="play-answer")
                    self.stop = gr.Button("Stop", visible=False, elem_id="play-stop")
        self.proof = html_piece('<div class="ps-proof"></div>', elem_id="play-proof")
        self.panes = html_piece(compare_view.waiting(), elem_id="play-panes")
        with gr.Accordion("The prompt as the models read it", open=False):
            self.prompt = html_piece(elem_id="play-prompt")

    @property
    def form(self) -> list[Any]:
        """What `show` fills."""
        return [self.first, self.prefixes, *self.fields, self.raw, self.random, self.expected]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        for control in (self.prefixes, self.kind):
            control.input(guarded(self.show), [self.prefixes, self.kind], self.form)
        self.random.click(guarded(self.take_row), self.first, [*self.fields, self.expected])
        sampling = [self.max_tokens, self.temperature, self.top_p, self.seed]
        asked = [self.prefixes, self.first, self.kind, *sampling, self.raw, *self.fields]
        shown = [self.panes, self.proof, self.prompt, self.answer, self.stop]
        gr.on(
            [self.answer.click, self.raw.submit, *(each.submit for each in self.fields)],
            guarded(self.compare),
            asked,
            shown,
            concurrency_limit=None,
            show_progress="hidden",
        )
        self.stop.click(self.running.cancel, None, None)

    def show(self, chosen: list[str] | None, kind: str) -> Updates:
        """Offers the prefixes there are, and the fields of the first chosen one."""
        listed = prefixes.listing(self.context)
        names = [each["name"] for each in listed]
        chosen = [name for name in chosen or [] if name in names] or names[:1]
        first = next((each for each in listed if chosen and each["name"] == chosen[0]), None)
        if first is not None:
            first = prefixes.describe(self.context, first["id"])
        columns = _columns(first)
        by_fields = kind == FIELDS and bool(columns)
        boxes = [
            gr.Textbox(
                visible=by_fields and index < len(columns),
                label=columns[index] if index < len(columns) else "",
                lines=2 if len(columns) <= 2 else 1,
            )
            for index in range(MAX_FIELDS)
        ]
        has_rows = bool(first and first.get("dataset_version_id"))
        return (
            first,
            gr.Dropdown(choices=_choices(listed), value=chosen),
            *boxes,
            gr.Textbox(visible=not by_fields),
            gr.Button(visible=has_rows and by_fields),
            "",
        )

    def visit(self, first: dict[str, Any] | None, chosen: list[str] | None, kind: str) -> Updates:
        """Looks for new prefixes when the tab is opened; what the user has filled in already stays."""
        listed = prefixes.listing(self.context)
        if first is None or not chosen or not set(chosen) <= {each["name"] for each in listed}:
            return self.show(chosen, kind)
        unchanged = [gr.skip()] * (len(self.form) - 2)
        return gr.skip(), gr.Dropdown(choices=_choices(listed)), *unchanged

    def take_row(self, first: dict[str, Any] | None) -> Updates:
        """Fills the form with a row that the prefix never trained on, and shows the answer it should give."""
        if first is None or not first.get("dataset_version_id"):
            raise InvalidInputError("The data of this prefix is not on this machine, so there is no row to take.")
        row = datasets.random_validation_row(self.context, first["dataset_version_id"], time.time_ns() % 2**31)
        columns = _columns(first)
        values = [row["fields"].get(columns[index], "") if index < len(columns) else "" for index in range(MAX_FIELDS)]
        expected = f'<div class="ps-sample"><small>The answer in the data</small>{markup.isolated(row["target"])}</div>'
        return *values, expected

    def compare(
        self,
        request: gr.Request,
        chosen: list[str] | None,
        first: dict[str, Any] | None,
        kind: str,
        max_tokens: float,
        temperature: float,
        top_p: float,
        seed: float | None,
        raw: str | None,
        *fields: str | None,
    ) -> Iterator[Updates]:
        """Streams all columns; ends within a step when the user stops it or closes the page."""
        if not chosen or first is None:
            raise InvalidInputError("There is no prefix to compare yet. Train one in the Train tab.")
        body: dict[str, Any] = {
            "models": [first["base_model"], *chosen], "max_tokens": int(max_tokens), "temperature": temperature,
            "top_p": top_p, "seed": int(seed or 0), "stream": True,
        }  # fmt: skip
        columns = _columns(first)
        if kind == FIELDS and columns:
            body["fields"] = {name: text or "" for name, text in zip(columns, fields, strict=False)}
        else:
            body["prompt"] = raw or ""
        state = compare_view.Comparison(
            [compare_view.Pane(first["base_model"], "the base model, untouched")]
            + [compare_view.Pane(name, "the same base with this prefix") for name in chosen]
        )
        yield self._drawn(state, is_running=True)
        with self.running.track(request.session_hash) as cancelled:
            try:
                for _ in self._until_ready(cancelled):
                    yield compare_view.starting(), "", "", gr.Button(visible=False), gr.Button(visible=True)
                yield from self._follow(state, body, cancelled)
            except Exception as fault:
                yield markup.notice(sentence(fault), "bad"), "", "", gr.Button(visible=True), gr.Button(visible=False)
                return
        state.end()
        yield self._drawn(state, is_running=False)

    def _until_ready(self, cancelled: Event) -> Iterator[None]:
        """Waits for a model server that is still starting, as it does for some seconds after the page is up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not inference.is_up(self.context) and time.monotonic() < deadline:
            yield
            if cancelled.wait(UPDATE_EVERY_S):
                return

    def _follow(self, state: compare_view.Comparison, body: dict[str, Any], cancelled: Event) -> Iterator[Updates]:
        last = 0.0
        with closing(inference.compare_stream(self.context, body)) as events:
            for event in events:
                if cancelled.is_set():
                    break
                state.take(event)
                if time.monotonic() - last >= UPDATE_EVERY_S:
                    last = time.monotonic()
                    yield self._drawn(state, is_running=True)

    @staticmethod
    def _drawn(state: compare_view.Comparison, *, is_running: bool) -> Updates:
        prompt = compare_view.prompt_shown(state.prompt) if state.prompt else ""
        buttons = gr.Button(visible=not is_running), gr.Button(visible=is_running)
        return compare_view.panes(state), compare_view.proof(state), prompt, *buttons


def _choices(listed: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (f"{markup.isolated_text(each['name'])} (on {markup.isolated_text(each['base_model'])})", each["name"])
        for each in listed
    ]


def _columns(prefix: dict[str, Any] | None) -> list[str]:
    """The columns that a prefix's template names; none where there are too many for the form."""
    columns = template_columns(prefix["rendering"].get("template") or "") if prefix else []
    return columns if len(columns) <= MAX_FIELDS else []
