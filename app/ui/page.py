"""Puts the page together: header, four tabs, the ways between them, and the address that remembers the place."""

from typing import Any

import gradio as gr
from fastapi import FastAPI

from app.context import AppContext
from app.services import jobs, status
from app.tabs.jobs import JobsTab
from app.tabs.playground import PlaygroundTab
from app.tabs.prefixes import PrefixesTab
from app.tabs.train import TrainTab
from app.ui import markup
from app.ui.pieces import LATEST, guarded, html_piece
from app.ui.scripted import offer_endpoints
from app.ui.theme import STYLE_SHEETS, build_theme, script

HEADER = (
    '<header class="ps-header"><h1>Prefix Studio</h1><span class="ps-status" role="status">{status}</span>'
    '<button type="button" data-page-action="theme">Light or dark</button></header>'
)
MAX_THREADS = 200
"""Events that run at once; Gradio's own 40 would let 50 streams wait for each other."""

TABS = ("train", "jobs", "playground", "prefixes")


class Page:
    """The assembled page."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        with gr.Blocks(title="Prefix Studio", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.header = html_piece(HEADER.format(status="&nbsp;"))
            self.status_timer = gr.Timer(10.0)
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab("Train", id="train") as self.train_tab:
                    self.train = TrainTab(context)
                with gr.Tab("Jobs", id="jobs") as self.jobs_tab:
                    self.jobs = JobsTab(context)
                with gr.Tab("Playground", id="playground") as self.playground_tab:
                    self.playground = PlaygroundTab(context)
                with gr.Tab("Prefixes", id="prefixes") as self.prefixes_tab:
                    self.prefixes = PrefixesTab(context)
            self._wire()
            offer_endpoints(self.blocks, context, self.train.data.sources.file)

    def _wire(self) -> None:
        for tab in (self.jobs, self.playground, self.prefixes):
            tab.wire()
        self._wire_visits()
        self._wire_ways()
        places = [self.jobs.chosen, self.jobs.marked, self.jobs.comparing, self.playground.saved.wanted]
        opened = [self.tabs, self.jobs.timer, *places]
        loaded = self.blocks.load(guarded(self._open), None, opened)
        loaded.then(guarded(self.jobs.refresh), self.jobs.inputs, self.jobs.shown)
        loaded.then(guarded(self._status), None, self.header, show_progress="hidden")
        self.blocks.load(guarded(self.train.data.sources.list_earlier), None, self.train.data.sources.earlier)
        self.blocks.unload(self.playground.cancel)
        self.status_timer.tick(guarded(self._status), None, self.header, show_progress="hidden")

    def _wire_visits(self) -> None:
        """What happens when a tab is opened: it reads the database, and only the open one goes on reading."""
        train, history, playground, library = self.train, self.jobs, self.playground, self.prefixes
        visits = {
            self.train_tab: (guarded(train.data.sources.list_earlier), None, train.data.sources.earlier),
            self.jobs_tab: (guarded(history.refresh), history.inputs, history.shown),
            self.playground_tab: (guarded(playground.visit), playground.inputs, playground.shown),
            self.prefixes_tab: (guarded(library.show), library.chosen, library.shown),
        }  # fmt: skip
        for (tab, visit), name in zip(visits.items(), TABS, strict=True):
            tab.select(
                lambda name=name: gr.Timer(active=name == "jobs"), None, history.timer, **LATEST,
                concurrency_id="open-tab",
            )  # fmt: skip
            tab.select(*visit, show_progress="hidden")

    def _wire_ways(self) -> None:
        """From Train to Jobs, from a finished job or a prefix to the Playground."""
        started = self.train.start.train.click(
            guarded(self.train.start.start), self.train.start_inputs, self.jobs.chosen
        )
        started.success(self._to_jobs, None, [self.tabs, self.jobs.timer, self.jobs.comparing]).success(
            guarded(self.jobs.refresh), self.jobs.inputs, self.jobs.shown
        )
        target = [self.tabs, self.jobs.timer, *self.playground.form]
        self.jobs.compare.click(guarded(self._compare_job), self.jobs.chosen, target)
        self.prefixes.compare.click(guarded(self._compare_prefix), self.prefixes.chosen, target)

    @staticmethod
    def _to_jobs() -> tuple[Any, ...]:
        return gr.Tabs(selected="jobs"), gr.Timer(active=True), False

    def _compare_job(self, job_id: str) -> tuple[Any, ...]:
        """The prefix of a job, or while there is none its latest state, beside the base."""
        prefix_id = jobs.describe(self.context, job_id)["prefix_id"]
        shown = self.playground.show_prefix(prefix_id) if prefix_id else self.playground.show_training(job_id)
        return gr.Tabs(selected="playground"), gr.Timer(active=False), *shown

    def _compare_prefix(self, prefix_id: str) -> tuple[Any, ...]:
        return gr.Tabs(selected="playground"), gr.Timer(active=False), *self.playground.show_prefix(prefix_id)

    def _open(self, request: gr.Request) -> tuple[Any, ...]:
        """Opens the place that the address names."""
        asked = request.query_params
        tab, comparison = asked.get("tab"), asked.get("comparison")
        place = "playground" if comparison else tab if tab in TABS else "train"
        marked = [each for each in (asked.get("compare") or "").split(",") if each]
        opened = gr.Tabs(selected=place), gr.Timer(active=place == "jobs")
        return *opened, asked.get("job"), marked, len(marked) > 1, comparison

    def _status(self) -> str:
        return HEADER.format(status=markup.escape(status.status_line(self.context)))


def mount(app: FastAPI, context: AppContext) -> FastAPI:
    """Mounts the page on the web role's application, with Gradio's own open doors shut.

    Args:
        app: The application that already has every other route.
        context: What the services work with.
    """
    blocks = Page(context).blocks
    blocks.max_threads = MAX_THREADS
    blocks.queue(default_concurrency_limit=20, max_size=256, api_open=False)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=context.settings.max_upload_bytes,
        theme=build_theme(),
        css_paths=[*STYLE_SHEETS],
        js=script(),
    )
    # Mounting leaves this off, and with it Gradio's check that a file handler is only given uploaded files.
    blocks.has_launched = True
    return mounted
