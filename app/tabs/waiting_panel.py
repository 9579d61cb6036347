"""When a job that waits starts: its priority, its place, and the job that it waits for."""

from functools import partial
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import jobs
from app.ui import job_view, markup
from app.ui.pieces import LATEST, guarded

PRIORITIES = [("First, before all others", 1), ("Normal", 0), ("Last, when nothing else waits", -1)]
CONDITIONS = [("however it ends", "ended"), ("if it succeeds", "succeeded"), ("if it fails", "failed")]
NOTHING = ("Nothing: it starts at its turn", "")
MAX_CHOICES = 60
MAX_NAME = 40


class WaitingPanel:
    """The fields of a waiting job; what is chosen is done at once."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        with gr.Group(visible=False) as self.group:
            self.priority = gr.Radio(PRIORITIES, value=0, label="When its turn is", elem_id="job-priority")
            with gr.Row():
                self.after = gr.Dropdown(
                    [NOTHING], value="", label="Starts after", min_width=260, elem_id="job-starts-after"
                )
                self.when = gr.Radio(
                    CONDITIONS, value="ended", label="And then", min_width=260, elem_id="job-starts-when"
                )

    @property
    def parts(self) -> dict[str, Any]:
        """The components by name."""
        return {"waiting": self.group, "priority": self.priority, "after": self.after, "when": self.when}

    def wire(self, tab: Any) -> None:
        """Ties the fields to the services.

        Args:
            tab: The tab of the jobs, which reads everything anew when a change is done or refused.
        """
        acts = (
            (self.priority.input, self._prefer, [tab.chosen, self.priority]),
            (self.after.input, self._wait, [tab.chosen, self.after, self.when]),
            (self.when.input, self._wait, [tab.chosen, self.after, self.when]),
            (tab.buttons["earlier"].click, partial(self._move, by=-1), [tab.chosen]),
            (tab.buttons["later"].click, partial(self._move, by=1), [tab.chosen]),
        )
        for listen, act, inputs in acts:
            last = {**LATEST, "concurrency_id": "job-order", "show_progress": "hidden"}
            done = listen(guarded(act), inputs, None, **last)
            # What was refused shows as it was again.
            done.then(_forget, tab.seen, tab.seen, **last).then(guarded(tab.refresh), tab.inputs, tab.shown, **last)

    def values(self, job: dict[str, Any] | None, listed: list[dict[str, Any]]) -> dict[str, Any]:
        """What the fields show of a job; each is the update of its component.

        Args:
            job: The chosen job.
            listed: All jobs.
        """
        if job is None or job["status"] not in ("queued", "paused"):
            return dict.fromkeys(("waiting", "earlier", "later"), False) | dict.fromkeys(("priority", "after", "when"))
        others = [each for each in listed if each["id"] != job["id"]][:MAX_CHOICES]
        choices = [NOTHING, *[(_choice(each), each["id"]) for each in others]]
        after = job["starts_after"] or ""
        if after not in [value for _, value in choices]:
            choices.append((_choice(job["waits_for"]) if job["waits_for"]["name"] else "a deleted job", after))
        has_order = job["status"] == "queued" and sum(each["status"] == "queued" for each in listed) > 1
        return {
            "waiting": True,
            "priority": {"value": job["priority"]},
            "after": {"choices": choices, "value": after},
            "when": {"value": job["starts_when"] or "ended", "visible": bool(after)},
            "earlier": has_order,
            "later": has_order,
        }

    def _prefer(self, job_id: str, priority: int) -> None:
        jobs.change(self.context, job_id, {"priority": priority})

    def _wait(self, job_id: str, after: str | None, when: str) -> None:
        wishes = {"starts_after": after, "starts_when": when} if after else {"starts_after": None}
        jobs.change(self.context, job_id, wishes)

    def _move(self, job_id: str, by: int) -> None:
        """One place, among all that wait."""
        place = jobs.place(self.context, job_id)
        if place is not None:
            jobs.move(self.context, job_id, max(0, place + by))


def _choice(job: dict[str, Any]) -> str:
    name = job["name"] if len(job["name"]) <= MAX_NAME else f"{job['name'][:MAX_NAME]}…"
    return f"{markup.isolated_text(name)} ({job_view.WORDS[job['status']]})"


def _forget(seen: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in seen.items() if name not in ("priority", "after", "when")}
