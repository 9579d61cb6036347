"""The Train tab: examples, base model, start, one after the other."""

import re
from typing import Any

import gradio as gr

from app.context import AppContext
from app.tabs.base_step import BaseStep
from app.tabs.data_step import DataStep
from app.tabs.start_step import SUMMARY, StartStep
from app.ui.pieces import guarded

NAMELESS = {"train", "training", "data", "dataset", "table", "examples", "sheet1", "export"}


class TrainTab:
    """The three steps and the way between them."""

    def __init__(self, context: AppContext) -> None:
        with gr.Walkthrough(selected=0, elem_id="train-steps") as self.steps:
            with gr.Step("Your examples", id=0):
                self.data = DataStep(context)
            with gr.Step("Base model", id=1):
                self.base = BaseStep(context)
            with gr.Step("Train", id=2):
                self.start = StartStep(context)
        self._wire()

    def _wire(self) -> None:
        data, base, start = self.data, self.base, self.start
        for step in (data, base):
            step.wire()
        start.wire(data.dataset, base.chosen)
        chosen = [data.dataset, base.chosen, *start.fields]
        kept = data.next.click(guarded(data.keep), [data.dataset, *data.mapping_fields], data.dataset)
        listed = kept.success(guarded(base.show), base.chosen, base.shown)
        listed.success(lambda: gr.Walkthrough(selected=1), None, self.steps)
        named = base.next.click(guarded(self._suggest_name), [data.dataset, start.name], start.name)
        summed = named.success(guarded(start.show), chosen, start.shown, **SUMMARY)
        opened = summed.success(lambda: gr.Walkthrough(selected=2), None, self.steps)
        start.count_after(opened, data.dataset, base.chosen)
        back = base.back.click(lambda: gr.Walkthrough(selected=0), None, self.steps)
        back.then(guarded(data.show), data.dataset, data.shown, show_progress="hidden")
        start.back.click(lambda: gr.Walkthrough(selected=1), None, self.steps)

    @property
    def start_inputs(self) -> list[Any]:
        """What `start.start` needs."""
        return [self.data.dataset, self.base.chosen, *self.start.fields]

    @staticmethod
    def _suggest_name(dataset: dict[str, Any], name: str | None) -> str:
        """The file's name without its ending, unless the user has written a name already.

        A file called `train` or `data` says nothing, so the first words of the instruction name it then.
        """
        stem = dataset["name"].removesuffix(".gz").rsplit(".", 1)[0].lower()
        words = re.findall(r"\w+", dataset["mapping"]["instruction"].lower())[:5]
        if stem in NAMELESS and words:
            stem = "-".join(words)
        return (name or "").strip() or stem.replace(" ", "-")[:80]
