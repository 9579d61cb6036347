"""The Jobs tab: what waits, runs and is done; everything is read from the database, so a reload shows the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import jobs, snapshots
from app.services.compare_runs import MAX_RUNS
from app.services.health import queue_notice
from app.services.moments import UNDER_WAY
from app.tabs.compare_runs import CompareRuns
from app.tabs.copy_panel import CopyPanel
from app.tabs.waiting_panel import WaitingPanel
from app.ui import compare_runs_view, job_view, markup
from app.ui.pieces import LATEST, guarded, html_piece, picked

ENDED = ("succeeded", "failed", "cancelled")
COMPARE, COMPARE_NOW = "Compare", "Ask it now"
BUTTONS = {
    "stop": "Stop…", "compare": COMPARE, "download": "Download", "pause": "Pause", "resume": "Resume",
    "retry": "Try again", "earlier": "Earlier", "later": "Later", "duplicate": "Run a copy…", "delete": "Delete…",
}  # fmt: skip
PIECES = ("state", "verdict", "curve", "samples", "details", "log")
DELETE = "Delete this job with its curve and its log? A trained prefix stays; an answered table goes with its job."
TELL = (
    '<div class="ps-tell"><label><input type="checkbox" data-page-action="tell">Tell me when a job is done</label>'
    '<small id="ps-tell-hint" role="status"></small></div>'
)

Updates = tuple[Any, ...]


class JobsTab:
    """The list of jobs, and the chosen one or a comparison of several.

    `chosen` holds the id of the chosen job, `marked` those that are ticked, `comparing` whether they are compared, and
    `seen` what the page shows already.
    """

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.chosen = gr.State(None)
        self.marked = gr.State([])
        self.comparing = gr.State(False)
        self.seen = gr.State({})
        self.notice = html_piece(elem_id="job-notice")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                html_piece(TELL, elem_id="job-tell")
                self.bar = html_piece(elem_id="job-marked")
                self.cards = html_piece(elem_id="job-cards")
            with gr.Column(scale=5, min_width=320) as self.detail:
                self._build_detail()
            with gr.Column(scale=5, min_width=320, visible=False) as self.comparison:
                self.runs = CompareRuns(context)
        self.timer = gr.Timer(1.0, active=False)

    def _build_detail(self) -> None:
        self.state = html_piece(elem_id="job-state")
        with gr.Row(elem_classes="ps-tight"):
            self.buttons = {
                name: gr.Button(
                    label, visible=False, size="md", min_width=150 if name == "compare" else 96, elem_id=f"job-{name}",
                    variant="primary" if name == "compare" else "secondary",
                )
                for name, label in BUTTONS.items()
            }  # fmt: skip
        self.duplicate, self.compare = self.buttons["duplicate"], self.buttons["compare"]
        with gr.Group(visible=False) as self.stop_choice:
            gr.HTML(markup.notice("Stop this job? What it has learned or answered so far can be kept.", "warn"))
            with gr.Row():
                self.go_on = gr.Button("Let it go on", size="md", min_width=110, elem_id="job-go-on")
                self.keep = gr.Button("Stop and keep", variant="primary", size="md", min_width=110, elem_id="job-keep")
                self.discard = gr.Button("Discard", variant="stop", size="md", min_width=110, elem_id="job-discard")
        with gr.Group(visible=False) as self.delete_choice:
            gr.HTML(markup.notice(DELETE, "warn"))
            with gr.Row():
                self.keep_job = gr.Button("Keep it", size="md", min_width=110)
                self.delete_job = gr.Button(
                    "Delete", variant="stop", size="md", min_width=110, elem_id="job-delete-confirm"
                )
        self.copy = CopyPanel(self.context)
        self.waiting = WaitingPanel(self.context)
        self.verdict = html_piece(elem_id="job-verdict")
        self.curve = html_piece(elem_id="job-curve")
        self.samples = html_piece(elem_id="job-samples")
        self.details = html_piece(elem_id="job-details")
        with gr.Accordion("Log", open=False):
            self.log = html_piece(elem_id="job-log")

    @property
    def inputs(self) -> list[Any]:
        """What `refresh` needs."""
        return [self.chosen, self.marked, self.comparing, self.seen, self.runs.only]

    @property
    def shown(self) -> list[Any]:
        """What `refresh` fills."""
        return [self.chosen, self.marked, self.comparing, self.seen, *self.parts.values()]

    @property
    def parts(self) -> dict[str, Any]:
        """The components of the tab by name."""
        pieces = {name: getattr(self, name) for name in PIECES}
        frame = {"notice": self.notice, "bar": self.bar, "cards": self.cards}
        sides = {"detail": self.detail, "comparison": self.comparison}
        return {**frame, **sides, **pieces, **self.buttons, **self.waiting.parts, **self.runs.parts}

    def wire(self) -> None:
        """Ties what the user does to the services."""
        for piece in (self.cards, self.bar):
            piece.select(
                guarded(self.press), self.inputs, self.shown, show_progress="hidden", **LATEST,
                concurrency_id="press-job",
            )  # fmt: skip
        self.timer.tick(guarded(self.refresh), self.inputs, self.shown, show_progress="hidden")
        self.runs.only.input(
            guarded(self.refresh), self.inputs, self.shown, show_progress="hidden", **LATEST,
            concurrency_id="press-job",
        )  # fmt: skip
        closed = self.runs.close.click(lambda: False, None, self.comparing)
        closed.then(guarded(self.refresh), self.inputs, self.shown)
        choices = [self.stop_choice, self.delete_choice]
        for button, group in ((self.buttons["stop"], self.stop_choice), (self.buttons["delete"], self.delete_choice)):
            button.click(lambda: gr.Group(visible=True), None, group)
        for button, group in ((self.go_on, self.stop_choice), (self.keep_job, self.delete_choice)):
            button.click(lambda: gr.Group(visible=False), None, group)
        acts: dict[gr.Button, Callable[[AppContext, str], Any]] = {
            self.keep: partial(jobs.stop, keep=True),
            self.discard: partial(jobs.stop, keep=False),
            self.buttons["pause"]: jobs.pause,
            self.buttons["resume"]: jobs.resume,
            self.buttons["retry"]: jobs.retry,
            self.delete_job: jobs.remove,
        }
        for button, act in acts.items():
            done = button.click(guarded(partial(self._act, act)), self.chosen, None)
            closed = done.then(lambda: (gr.Group(visible=False), gr.Group(visible=False)), None, choices)
            closed.then(guarded(self.refresh), self.inputs, self.shown)
        self.copy.wire(self)
        self.waiting.wire(self)

    def press(
        self, chosen: str | None, marked: list[str], comparing: bool, seen: dict[str, str], only: bool,
        event: gr.EventData,
    ) -> Updates:  # fmt: skip
        """Shows the job whose card was pressed, ticks or unticks one, or compares those that are ticked."""
        kind, target = picked(event)
        if kind == "job":
            chosen, comparing = target, False
        elif kind == "mark":
            marked = [each for each in marked if each != target] if target in marked else [*marked, target]
            comparing = comparing and len(marked) > 1
        elif kind == "compare-runs":
            comparing = True
        elif kind == "clear-marks":
            marked, comparing = [], False
        return self._read(chosen, marked, comparing, seen, only)

    def refresh(
        self, chosen: str | None, marked: list[str], comparing: bool, seen: dict[str, str], only: bool
    ) -> Updates:
        """Reads the state of things; the choice is left alone, since a card may have been pressed meanwhile."""
        given = (chosen, marked, comparing)
        told = self._read(chosen, marked, comparing, seen, only)
        choice = [gr.skip() if new == old else new for new, old in zip(told, given, strict=False)]
        return *choice, *told[len(given) :]

    def _read(
        self, chosen: str | None, marked: list[str], comparing: bool, seen: dict[str, str], only: bool
    ) -> Updates:
        """What is to be shown; only what has changed is sent, so that nothing flickers."""
        listed = jobs.listing(self.context)
        names = {each["id"]: each["name"] for each in listed}
        chosen = chosen if chosen in names else next(iter(names), None)
        marked = [each for each in marked if each in names]
        comparing = comparing and len(marked) > 1
        fault = queue_notice(self.context.settings)
        wanted = {
            "notice": markup.notice(fault, "warn") if fault else "",
            "bar": compare_runs_view.marked_bar([names[each] for each in marked], len(names), MAX_RUNS),
            "cards": job_view.job_cards(listed, None if comparing else chosen, marked),
            "detail": not comparing,
            "comparison": comparing,
            **({} if comparing else self._detail(chosen, listed)),
            **self.runs.values(marked if comparing else None, only_differences=only),
        }
        prints = {name: repr(value) for name, value in wanted.items()}
        updates = [
            gr.skip() if name not in prints or prints[name] == seen.get(name) else _as_update(wanted[name])
            for name in self.parts
        ]
        return chosen, marked, comparing, {**seen, **prints}, *updates

    def _detail(self, job_id: str | None, listed: list[dict[str, Any]]) -> dict[str, Any]:
        if job_id is None:
            return dict.fromkeys(PIECES, "") | _buttons(None) | self.waiting.values(None, listed)
        job = jobs.describe(self.context, job_id)
        has_state = job["status"] in UNDER_WAY and bool(snapshots.of_job(self.context, job_id))
        return {
            "state": job_view.state_line(job),
            "verdict": job_view.verdict(job),
            "curve": job_view.curve(job, jobs.curve(self.context, job_id)),
            "samples": job_view.samples(job_id, jobs.sample_history(self.context, job_id)),
            "details": job_view.details(job),
            "log": job_view.log(jobs.log_lines(self.context, job_id)),
            **_buttons(job, has_state=has_state),
            **self.waiting.values(job, listed),
        }

    def _act(self, act: Callable[[AppContext, str], Any], job_id: str) -> None:
        act(self.context, job_id)


def _buttons(job: dict[str, Any] | None, *, has_state: bool = False) -> dict[str, Any]:
    """Which buttons the state of a job offers; the download's link is its address.

    Args:
        job: As it stands.
        has_state: Whether it is under way and a state of it can be asked already.
    """
    status = job["status"] if job else ""
    prefix_id = job.get("prefix_id") if job else None
    works_on = (job or {}).get("answers")
    address = f"/api/v1/prefixes/{prefix_id}/download" if prefix_id else works_on["download"] if works_on else None
    return {
        "stop": status == "running",
        "compare": {"visible": bool(prefix_id) or has_state, "value": COMPARE_NOW if has_state else COMPARE},
        "download": {"link": address, "visible": bool(address)},
        "pause": status in ("running", "queued"),
        "resume": status == "paused",
        "retry": status in ("failed", "cancelled"),
        "duplicate": bool(job) and not works_on,
        "delete": status in (*ENDED, "queued", "paused"),
    }


def _as_update(value: Any) -> Any:
    if value is None:
        return gr.skip()
    if isinstance(value, dict):
        return gr.update(**value)
    return gr.update(visible=value) if isinstance(value, bool) else value
