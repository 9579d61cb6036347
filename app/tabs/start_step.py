"""Step 3 of training: one sentence that says what will happen, a name, one button."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import jobs
from app.services.compare_runs import KINDS
from app.services.methods import PLUS
from app.tabs.lengths_panel import LengthsPanel
from app.ui import markup
from app.ui.pieces import LATEST, guarded, html_piece, in_turn, sentence
from storage.errors import InvalidInputError

METHODS = [
    ("Prefix tuning: vectors in every layer", "prefix-tuning"),
    ("Prompt tuning: at the input only", "prompt-tuning"),
    ("Prefix tuning+: also outside attention's softmax; often stronger, but only this app can load it", PLUS),
]
STARTS = [("From the instruction and the first examples", "text"), ("From random numbers", "random")]
PRECISIONS = [
    ("Automatic", "auto"),
    ("32-bit", "float32"),
    ("bfloat16", "bfloat16"),
    ("8-bit weights", "int8"),
    ("4-bit weights", "int4"),
]
NUMBERS = {
    "num_virtual_tokens": "Length of the prefix in tokens",
    "learning_rate": "Learning rate",
    "max_steps": "Training steps",
    "batch_size": "Rows per step",
    "seed": "Seed",
}
TRAINED = [
    ("Automatic", "auto"),
    ("Input vectors and what each layer adds, with Muon", "propagated"),
    ("Matrices of each layer, with Muon", "muon"),
    ("A network (MLP) that makes the prefix", "mlp"),
    ("The numbers themselves, with AdamW", "direct"),
]

SUMMARY = in_turn("train-summary")
"""A summary that was asked for earlier must not replace that of the settings as they are."""

Updates = tuple[Any, ...]


class StartStep:
    """The components of step 3."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.length = gr.State(None)
        self.summary = html_piece(elem_id="train-summary")
        self.name = gr.Textbox(
            label="Name of the prefix",
            info="It also names it for other programs.",
            max_lines=1,
            max_length=80,
            elem_id="train-name",
        )
        with gr.Accordion("Advanced: everything here is chosen for you unless you say otherwise", open=False):
            self.method = gr.Radio(METHODS, value="prefix-tuning", label="Method", elem_id="train-method")
            self.trained = gr.Radio(
                TRAINED, value="auto", label="What is trained", info="The prefix that comes out is of one kind.",
                elem_id="train-reparameterisation",
            )  # fmt: skip
            self.init = gr.Radio(STARTS, value="text", label="Where training starts")
            with gr.Row():
                self.numbers = {
                    name: gr.Textbox(
                        "", label=label, placeholder="automatic", max_lines=1, min_width=150, elem_id=f"train-{name}"
                    )
                    for name, label in NUMBERS.items()
                }
            self.precision = gr.Radio(PRECISIONS, value="auto", label="Number format of the base model")
        self.lengths = LengthsPanel(context)
        with gr.Row():
            self.back = gr.Button("Back", elem_id="train-back-start")
            self.train = gr.Button("Train", variant="primary", elem_id="train-start")

    @property
    def fields(self) -> list[Any]:
        """The recipe, in the order that `read_body` takes."""
        return [self.name, self.method, self.trained, self.init, self.precision, *self.numbers.values()]

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.summary, self.train, self.length, self.trained, *self.numbers.values()]

    def wire(self, dataset: gr.State, chosen: gr.State) -> None:
        """Keeps the sentence and the rows over the context true while the settings change."""
        panel = self.lengths
        self.length.change(
            guarded(panel.draw), [panel.measured, self.length], panel.piece, show_progress="hidden", **LATEST
        )
        pressed = panel.piece.select(
            guarded(panel.press), [dataset, panel.measured, self.length], [panel.wish, panel.piece], **LATEST
        )
        mended = pressed.success(guarded(panel.repair), [panel.wish, dataset, panel.measured, self.length], dataset)
        summed = mended.success(guarded(self.show), [dataset, chosen, *self.fields], self.shown, **SUMMARY)
        self.count_after(summed, dataset, chosen)
        gr.on(
            [field.change for field in self.fields[1:]], guarded(self.show), [dataset, chosen, *self.fields],
            self.shown, trigger_mode="always_last", show_progress="hidden", **SUMMARY,
        )  # fmt: skip

    def count_after(self, event: Any, dataset: gr.State, chosen: gr.State) -> None:
        """Has the tokens of the rows counted once an event is done."""
        panel = self.lengths
        event.then(
            guarded(panel.count), [dataset, chosen, panel.measured, self.length], [panel.measured, panel.piece],
            show_progress="hidden", trigger_mode="always_last",
        )  # fmt: skip

    def show(self, dataset: dict[str, Any] | None, base_model: str | None, *fields: Any) -> Updates:
        """Says what would be trained, or why it cannot be."""
        unchanged = [gr.skip()] * (1 + len(self.numbers))
        try:
            told = jobs.summary(self.context, self.read_body(dataset, base_model, *fields))
        except Exception as fault:
            return markup.notice(sentence(fault), "bad"), gr.Button(interactive=False), None, *unchanged
        warnings = "".join(markup.notice(each, "warn") for each in told.get("warnings", []))
        recipe = told["recipe"]
        automatic = [gr.Textbox(placeholder=f"automatic: {_taken(recipe, name)}") for name in self.numbers]
        line = f'<p class="ps-lead"><strong>{markup.isolated(told["sentence"])}</strong></p>'
        is_automatic = fields[self.fields.index(self.trained)] == "auto"
        trained = (
            gr.Radio(info=f"Automatic takes: {KINDS[recipe['reparameterisation']]}.") if is_automatic else gr.skip()
        )
        return line + warnings, gr.Button(interactive=True), told["num_virtual_tokens"], trained, *automatic

    def start(self, dataset: dict[str, Any] | None, base_model: str | None, *fields: Any) -> str:
        """Puts the job into the queue and returns its id."""
        return str(jobs.submit(self.context, self.read_body(dataset, base_model, *fields))["id"])

    def read_body(
        self,
        dataset: dict[str, Any] | None,
        base_model: str | None,
        name: str,
        method: str,
        trained: str,
        init: str,
        precision: str,
        *numbers: str | None,
    ) -> dict[str, Any]:
        """The fields of the page as REST would send them; an empty number is left to the automatic recipe."""
        recipe: dict[str, Any] = {"init": init, "precision": precision}
        if trained != "auto":
            recipe["reparameterisation"] = trained
        for (key, label), text in zip(NUMBERS.items(), numbers, strict=True):
            if text and text.strip():
                recipe[key] = number(label, text.strip())
        return {
            "dataset_id": (dataset or {}).get("id"),
            "base_model": base_model,
            "method": method,
            "name": name,
            "recipe": recipe,
        }


def _taken(recipe: dict[str, Any], name: str) -> str:
    """What the automatic recipe takes for a number, or which ones it compares."""
    if name == "learning_rate" and recipe.get("sweep"):
        rates = [f"{rate:g}" for rate in recipe["sweep"]]
        return f"the best of {rates[0]} to {rates[-1]}"
    return f"{recipe[name]:g}"


def number(label: str, text: str) -> float:
    """A number that was typed; whole ones stay whole, and the recipe's own check says what is out of range."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        raise InvalidInputError(f"{label} is {text!r}; expected a number, or nothing at all.") from None
    return int(value) if value.is_integer() else value
