"""Many rows: held-out rows answered by all chosen columns, scored, to be sorted, searched and downloaded."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import many_rows, many_rows_file, moments
from app.services.columns import JOB, label_of
from app.services.many_rows import DEFAULT_ROWS, MAX_ROWS, ManyRows
from app.tabs.asking import until_ready, with_rendering
from app.tabs.columns_panel import ColumnsPanel, wire_columns
from app.tabs.running import RunningAnswers
from app.ui import compare_view, many_view, markup
from app.ui.pieces import guarded, html_piece, sentence

DRAW_EVERY_S = 0.7

Shown = dict[Any, Any]


class ManyRowsPanel:
    """The number of rows, the totals and the table.

    Args:
        context: The open stores.
        columns: What is compared.
    """

    def __init__(self, context: AppContext, columns: ColumnsPanel) -> None:
        self.context, self.columns = context, columns
        self.running = RunningAnswers()
        with gr.Row(equal_height=False, elem_classes="ps-ends"):
            self.count = gr.Slider(
                1,
                MAX_ROWS,
                value=DEFAULT_ROWS,
                step=1,
                label="Held-out rows",
                scale=3,
                min_width=240,
                elem_id="many-count",
            )
            self.answer = gr.Button("Answer rows", variant="primary", scale=1, min_width=140, elem_id="many-answer")
            self.stop = gr.Button("Stop", visible=False, scale=1, min_width=140, elem_id="many-stop")
            self.download = gr.Button("Download CSV", visible=False, scale=1, min_width=190, elem_id="many-download")
        self.totals = html_piece(many_view.waiting(), elem_id="many-totals")
        self.table = gr.Dataframe(
            visible=False, interactive=False, show_search="search", wrap=True, max_height=560, buttons=["fullscreen"],
            show_label=False, elem_id="many-table",
        )  # fmt: skip

    @property
    def shown(self) -> list[Any]:
        """What `ask` fills."""
        return [self.totals, self.table, self.answer, self.stop, self.download]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        inputs = [self.count, self.columns.source, *self.columns.inputs]
        self.answer.click(guarded(self.ask), inputs, self.shown, concurrency_limit=None, show_progress="hidden")
        self.stop.click(self.running.cancel, None, None)

    def ask(self, request: gr.Request, *given: Any) -> Iterator[Shown]:
        """Has the rows answered, and shows each as it comes."""
        count, source, base, chosen, percent, at = given
        columns = wire_columns(base, chosen, percent, at)
        table = many_rows.held_out(self.context, source, columns, int(count))
        names = moments.names(self.context) if any(JOB in column["model"] for column in columns) else {}
        titles = [label_of(column, base, names) for column in columns]
        body = with_rendering({}, columns, base, source)
        client = request.session_hash or "page"
        yield {
            **self._buttons(is_running=True),
            self.totals: many_view.totals(table, titles),
            self.table: self._empty(),
        }
        with self.running.track(request.session_hash) as cancelled:
            try:
                for _ in until_ready(self.context, cancelled):
                    yield {self.totals: compare_view.starting()}
                with closing(many_rows.answer_all(self.context, table, body, cancelled, client=client)) as states:
                    yield from self._followed(states, titles)
            except Exception as fault:
                yield {self.totals: markup.notice(sentence(fault), "bad"), **self._buttons(is_running=False)}
                return
        yield {**self._drawn(table, titles), **self._buttons(is_running=False), **self._file(table, titles)}

    def _followed(self, states: Iterator[ManyRows], titles: list[str]) -> Iterator[Shown]:
        """The table as it fills, at a pace that a page can draw."""
        drawn_at, num_drawn = 0.0, -1
        for state in states:
            if time.monotonic() - drawn_at < DRAW_EVERY_S:
                continue
            drawn_at = time.monotonic()
            if state.num_done == num_drawn:
                yield {self.totals: many_view.totals(state, titles)}
            else:
                num_drawn = state.num_done
                yield self._drawn(state, titles)

    def _drawn(self, table: ManyRows, titles: list[str]) -> Shown:
        told = {self.totals: many_view.totals(table, titles)}
        if not table.answered:
            return told
        filled = gr.Dataframe(
            value=many_view.cells(table),
            headers=many_view.headers(titles, table.metric),
            datatype=many_view.datatypes(len(titles)),
            column_widths=list(many_view.widths(len(titles))),
            visible=True,
        )
        return {**told, self.table: filled}

    def _file(self, table: ManyRows, titles: list[str]) -> Shown:
        if not table.answered:
            return {}
        key = many_rows_file.keep(self.context, table, titles)
        return {self.download: gr.Button(link=f"/api/v1/held-out-rows/{key}", visible=True)}

    @staticmethod
    def _empty() -> Any:
        return gr.Dataframe(visible=False)

    def _buttons(self, *, is_running: bool) -> Shown:
        shown = {self.answer: gr.Button(visible=not is_running), self.stop: gr.Button(visible=is_running)}
        return {**shown, self.download: gr.Button(visible=False)} if is_running else shown
