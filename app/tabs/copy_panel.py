"""Running a job once more with changes: a name, single settings, and when the copy starts."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import jobs
from app.tabs.start_step import NUMBERS, number
from app.ui.pieces import guarded

STARTS = [
    ("At its turn", "turn"),
    ("After this job, however it ends", "ended"),
    ("Only if this job succeeds", "succeeded"),
    ("Only if this job fails", "failed"),
]


class CopyPanel:
    """The fields of a copy; an empty one is as in the original."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        with gr.Group(visible=False) as self.group:
            self.name = gr.Textbox(label="Name of the copy", max_lines=1, max_length=80, elem_id="job-copy-name")
            with gr.Row():
                self.numbers = {
                    name: gr.Textbox("", label=label, max_lines=1, min_width=150, elem_id=f"job-copy-{name}")
                    for name, label in NUMBERS.items()
                }
            self.starts = gr.Radio(STARTS, value="turn", label="When the copy starts", elem_id="job-copy-starts")
            with gr.Row():
                self.leave = gr.Button("Leave it")
                self.run = gr.Button("Run the copy", variant="primary", elem_id="job-copy-run")

    @property
    def fields(self) -> list[Any]:
        """What a copy may have otherwise."""
        return [self.name, self.starts, *self.numbers.values()]

    def wire(self, tab: Any) -> None:
        """Ties the panel to the tab of the jobs, whose chosen job is copied."""
        tab.duplicate.click(guarded(self._offer), tab.chosen, [self.group, *self.fields])
        self.leave.click(lambda: gr.Group(visible=False), None, self.group)
        copied = self.run.click(guarded(self._copy), [tab.chosen, *self.fields], tab.chosen)
        closed = copied.success(lambda: gr.Group(visible=False), None, self.group)
        closed.success(guarded(tab.refresh), tab.inputs, tab.shown)

    def _offer(self, job_id: str) -> tuple[Any, ...]:
        """Opens the panel, empty, with the original's settings as hints."""
        job = jobs.describe(self.context, job_id)
        hints = [job["recipe"].get(name) for name in NUMBERS]
        numbers = [gr.Textbox("", placeholder="automatic" if hint is None else f"{hint:g}") for hint in hints]
        name = gr.Textbox("", placeholder=f"{job['name'][:70]}, numbered")
        return gr.Group(visible=True), name, "turn", *numbers

    def _copy(self, job_id: str, name: str | None, starts: str, *numbers: str | None) -> str:
        recipe = {
            key: number(label, text.strip())
            for (key, label), text in zip(NUMBERS.items(), numbers, strict=True)
            if text and text.strip()
        }
        changes: dict[str, Any] = {"recipe": recipe} if recipe else {}
        if (name or "").strip():
            changes["name"] = (name or "").strip()
        if starts != "turn":
            changes |= {"starts_after": job_id, "starts_when": starts}
        return str(jobs.duplicate(self.context, job_id, changes)["id"])
