"""The Jobs tab: what waits, runs and is done; everything is read from the database, so a reload shows the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import jobs
from app.ui import job_view, markup
from app.ui.pieces import guarded, html_piece, picked

ENDED = ("succeeded", "failed", "cancelled")

Updates = tuple[Any, ...]


class JobsTab:
    """The list of jobs and the chosen one; `chosen` holds its id, `seen` what the page shows already."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.chosen = gr.State(None)
        self.seen = gr.State({})
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=260):
                self.cards = html_piece(elem_id="job-cards")
            with gr.Column(scale=5, min_width=320):
                self._build_detail()
        self.timer = gr.Timer(1.0, active=False)

    def _build_detail(self) -> None:
        self.state = html_piece(elem_id="job-state")
        with gr.Row(elem_classes="ps-tight"):
            self.stop = gr.Button("Stop…", visible=False, size="md", min_width=96, elem_id="job-stop")
            self.compare = gr.Button(
                "Compare", variant="primary", visible=False, size="md", min_width=96, elem_id="job-compare"
            )
            self.download = gr.Button("Download", visible=False, size="md", min_width=96, elem_id="job-download")
            self.pause = gr.Button("Pause", visible=False, size="md", min_width=96, elem_id="job-pause")
            self.resume = gr.Button("Resume", visible=False, size="md", min_width=96, elem_id="job-resume")
            self.retry = gr.Button("Try again", visible=False, size="md", min_width=96, elem_id="job-retry")
            self.duplicate = gr.Button("Run a copy", visible=False, size="md", min_width=96, elem_id="job-duplicate")
            self.delete = gr.Button("Delete…", visible=False, size="md", min_width=96, elem_id="job-delete")
        with gr.Group(visible=False) as self.stop_choice:
            gr.HTML(markup.notice("Stop this training? What it has learned so far can be kept as a prefix.", "warn"))
            with gr.Row():
                self.go_on = gr.Button("Go on training", elem_id="job-go-on")
                self.keep = gr.Button("Stop and keep", variant="primary", elem_id="job-keep")
                self.discard = gr.Button("Discard", variant="stop", elem_id="job-discard")
        with gr.Group(visible=False) as self.delete_choice:
            gr.HTML(markup.notice("Delete this job with its curve and its log? A trained prefix stays.", "warn"))
            with gr.Row():
                self.keep_job = gr.Button("Keep it")
                self.delete_job = gr.Button("Delete", variant="stop", elem_id="job-delete-confirm")
        self.verdict = html_piece(elem_id="job-verdict")
        self.curve = html_piece(elem_id="job-curve")
        self.samples = html_piece(elem_id="job-samples")
        self.details = html_piece(elem_id="job-details")
        with gr.Accordion("Log", open=False):
            self.log = html_piece(elem_id="job-log")

    @property
    def shown(self) -> list[Any]:
        """What `refresh` fills."""
        return [self.chosen, self.seen, *self.parts.values()]

    @property
    def parts(self) -> dict[str, Any]:
        """The components of the tab by name."""
        return {
            "cards": self.cards, "state": self.state, "verdict": self.verdict, "curve": self.curve,
            "samples": self.samples, "details": self.details, "log": self.log, "stop": self.stop,
            "compare": self.compare, "download": self.download, "pause": self.pause, "resume": self.resume,
            "retry": self.retry, "duplicate": self.duplicate, "delete": self.delete,
        }  # fmt: skip

    def wire(self) -> None:
        """Ties what the user does to the services."""
        inputs = [self.chosen, self.seen]
        self.cards.select(guarded(self.choose), self.seen, self.shown)
        self.timer.tick(guarded(self.refresh), inputs, self.shown, show_progress="hidden")
        for button, group in ((self.stop, self.stop_choice), (self.delete, self.delete_choice)):
            button.click(lambda: gr.Group(visible=True), None, group)
        for button, group in ((self.go_on, self.stop_choice), (self.keep_job, self.delete_choice)):
            button.click(lambda: gr.Group(visible=False), None, group)
        acts: dict[gr.Button, Callable[[AppContext, str], Any]] = {
            self.keep: partial(jobs.stop, keep=True),
            self.discard: partial(jobs.stop, keep=False),
            self.pause: jobs.pause,
            self.resume: jobs.resume,
            self.retry: jobs.retry,
            self.delete_job: jobs.remove,
        }
        for button, act in acts.items():
            done = button.click(guarded(partial(self._act, act)), self.chosen, None)
            done.then(
                lambda: (gr.Group(visible=False), gr.Group(visible=False)), None, [self.stop_choice, self.delete_choice]
            ).then(guarded(self.refresh), inputs, self.shown)
        copied = self.duplicate.click(guarded(self._copy), self.chosen, self.chosen)
        copied.success(guarded(self.refresh), inputs, self.shown)

    def choose(self, seen: dict[str, str], event: gr.EventData) -> Updates:
        """Shows the job whose card was pressed."""
        return self.refresh(picked(event)[1], seen)

    def refresh(self, chosen: str | None, seen: dict[str, str]) -> Updates:
        """Reads the state of things and updates only what has changed, so that nothing flickers."""
        listed = jobs.listing(self.context)
        known = [each["id"] for each in listed]
        chosen = chosen if chosen in known else next(iter(known), None)
        wanted = {"cards": job_view.job_cards(listed, chosen), **self._detail(chosen)}
        prints = {name: repr(value) for name, value in wanted.items()}
        updates = [
            gr.skip() if prints[name] == seen.get(name) else _as_update(name, wanted[name]) for name in self.parts
        ]
        return chosen, prints, *updates

    def _detail(self, job_id: str | None) -> dict[str, Any]:
        if job_id is None:
            return dict.fromkeys(("state", "verdict", "curve", "samples", "details", "log"), "") | _buttons(None)
        job = jobs.describe(self.context, job_id)
        return {
            "state": job_view.state_line(job),
            "verdict": job_view.verdict(job),
            "curve": job_view.curve(job, jobs.curve(self.context, job_id)),
            "samples": job_view.samples(job.get("samples") or []),
            "details": job_view.details(job),
            "log": job_view.log(jobs.log_lines(self.context, job_id)),
        } | _buttons(job)

    def _act(self, act: Callable[[AppContext, str], Any], job_id: str) -> None:
        act(self.context, job_id)

    def _copy(self, job_id: str) -> str:
        return str(jobs.duplicate(self.context, job_id)["id"])


def _buttons(job: dict[str, Any] | None) -> dict[str, Any]:
    """Which buttons the state of a job offers; the download's value is its address."""
    status = job["status"] if job else ""
    prefix_id = job.get("prefix_id") if job else None
    return {
        "stop": status == "running",
        "compare": bool(prefix_id),
        "download": f"/api/v1/prefixes/{prefix_id}/download" if prefix_id else "",
        "pause": status == "running",
        "resume": status == "paused",
        "retry": status in ("failed", "cancelled"),
        "duplicate": status in ENDED,
        "delete": status in (*ENDED, "queued", "paused"),
    }


def _as_update(name: str, value: Any) -> Any:
    if name == "download":
        return gr.Button(link=value or None, visible=bool(value))
    return gr.Button(visible=value) if isinstance(value, bool) else value
