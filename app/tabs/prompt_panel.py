"""What is asked: the columns of a table, free text or a message, and how the answer is drawn."""

import time
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import datasets
from app.ui import markup
from app.ui.pieces import guarded, html_piece
from storage.errors import InvalidInputError
from worker.engine.rendering import template_columns

FIELDS, RAW, CHAT = "Fill the columns", "Free text", "Chat"
MAX_FIELDS = 8
CONVERSATION = "conversation"
NO_TEMPLATE = (
    "This base model has no chat template, so it cannot hold a conversation. Fill the columns or write free text."
)

Updates = tuple[Any, ...]


class PromptPanel:
    """The prompt's form; the fields are those of the first chosen prefix."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.kind = gr.Radio([FIELDS, RAW, CHAT], value=FIELDS, label="Prompt", elem_id="play-kind")
        self.fields = [
            gr.Textbox(visible=False, label="Column", lines=2, max_lines=6, elem_id=f"play-field-{index}")
            for index in range(MAX_FIELDS)
        ]
        self.raw = gr.Textbox(visible=False, label="Text", lines=4, elem_id="play-raw")
        self.message = gr.Textbox(
            visible=False,
            label="Message",
            info="Each column keeps a conversation of its own.",
            lines=2,
            elem_id="play-message",
        )
        self.notice = html_piece(elem_id="play-prompt-notice")
        self.expected = html_piece(elem_id="play-expected")

    def build_sampling(self) -> None:
        """Builds what belongs beside the form."""
        self.random = gr.Button("A random held-out row", visible=False, elem_id="play-random")
        with gr.Accordion("Sampling", open=False):
            self.max_tokens = gr.Slider(1, 512, value=64, step=1, label="Longest answer in tokens")
            self.temperature = gr.Slider(
                0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token."
            )
            self.top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top p")
            self.seed = gr.Number(0, precision=0, minimum=0, label="Seed")

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.kind, *self.fields, self.raw, self.message, self.notice, self.random, self.expected]

    @property
    def sampling(self) -> list[Any]:
        """How an answer is drawn: what `drawn` takes."""
        return [self.max_tokens, self.temperature, self.top_p, self.seed]

    @property
    def inputs(self) -> list[Any]:
        """What `request_body` takes."""
        return [self.kind, *self.sampling, self.raw, self.message, *self.fields]

    def wire(self, source: gr.State) -> None:
        """Ties the button of the random row."""
        self.random.click(guarded(self.take_row), source, [*self.fields, self.expected])

    def show(
        self, source: dict[str, Any] | None, kind: str, has_chat: bool, asked: dict[str, Any] | None = None
    ) -> Updates:
        """Offers the ways to ask that suit a prefix and its base.

        Args:
            source: The prefix whose columns are filled.
            kind: The way that is chosen.
            has_chat: Whether the base has a chat template.
            asked: What to fill in; what stands there stays where this is left out.
        """
        columns = columns_of(source)
        is_conversation = _kind_of(source) == CONVERSATION
        ways = [*([FIELDS] if columns else []), RAW, CHAT]
        kind = CHAT if is_conversation and kind == FIELDS and has_chat else kind
        kind = kind if kind in ways else ways[0]
        cells = (asked or {}).get("fields") or {}
        boxes = [
            gr.Textbox(
                visible=kind == FIELDS and index < len(columns),
                label=columns[index] if index < len(columns) else "",
                lines=2 if len(columns) <= 2 else 1,
                **({"value": cells.get(columns[index], "")} if cells and index < len(columns) else {}),
            )
            for index in range(MAX_FIELDS)
        ]
        text = {"value": asked["prompt"]} if asked and "prompt" in asked else {}
        return (
            gr.Radio(choices=ways, value=kind),
            *boxes,
            gr.Textbox(visible=kind == RAW, **text),
            gr.Textbox(visible=kind == CHAT and has_chat),
            markup.notice(NO_TEMPLATE) if kind == CHAT and not has_chat else "",
            gr.Button(visible=kind == FIELDS and bool(source and source.get("dataset_version_id"))),
            "",
        )

    @staticmethod
    def asked(kind: str, *given: Any) -> dict[str, Any]:
        """What is asked, by the values of `inputs`: how the answer is drawn, and `fields`, `prompt` or `message`."""
        sampling, (raw, message, *fields) = given[:4], given[4:]
        told = {RAW: {"prompt": raw or ""}, CHAT: {"message": message or ""}}.get(kind, {"fields": fields})
        return {**drawn(*sampling), **told}

    def take_row(self, source: dict[str, Any] | None) -> Updates:
        """Fills the form with a row that the prefix never trained on, and shows the answer it should give."""
        row = random_row(self.context, source)
        columns = columns_of(source)
        values = [row["fields"].get(columns[index], "") if index < len(columns) else "" for index in range(MAX_FIELDS)]
        return *values, expected_answer(row["target"])


def random_row(context: AppContext, source: dict[str, Any] | None) -> dict[str, Any]:
    """A held-out row of a prefix's data.

    Raises:
        InvalidInputError: Its data is not on this machine.
    """
    if source is None or not source.get("dataset_version_id"):
        raise InvalidInputError("The data of this prefix is not on this machine, so there is no row to take.")
    return datasets.random_validation_row(context, source["dataset_version_id"], time.time_ns() % 2**31)


def expected_answer(target: str) -> str:
    """The answer that the data gives, as HTML."""
    return f'<div class="ps-sample"><small>The answer in the data</small>{markup.isolated(target)}</div>'


def columns_of(source: dict[str, Any] | None) -> list[str]:
    """The columns that a prefix's template names; none where it is about turns or has too many for the form."""
    if source is None or _kind_of(source) == CONVERSATION:
        return []
    columns = template_columns(source["rendering"].get("template") or "")
    return columns if len(columns) <= MAX_FIELDS else []


def drawn(max_tokens: float, temperature: float, top_p: float, seed: float | None) -> dict[str, Any]:
    """How an answer is drawn, as a request has it."""
    return {"max_tokens": int(max_tokens), "temperature": temperature, "top_p": top_p, "seed": int(seed or 0)}


def _kind_of(source: dict[str, Any] | None) -> str:
    return str(source["rendering"].get("kind")) if source else ""
