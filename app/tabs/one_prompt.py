"""One prompt, answered by all columns at once from one batch; a chosen token shows what both models considered."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models
from app.services.columns import Column, column_of, key_of
from app.tabs.asking import follow, until_ready, with_rendering
from app.tabs.columns_panel import ColumnsPanel, wire_columns
from app.tabs.current import Current, begun
from app.tabs.keep_panel import KeepPanel
from app.tabs.prompt_panel import NO_TEMPLATE, PromptPanel, columns_of
from app.tabs.running import RunningAnswers
from app.ui import compare_view
from app.ui.pieces import LATEST, guarded, html_piece, picked
from storage.errors import InvalidInputError

Shown = dict[Any, Any]


class OnePrompt:
    """The form and the panes; `current` holds what is shown, `threads` the conversation of each column."""

    def __init__(self, context: AppContext, columns: ColumnsPanel) -> None:
        self.context = context
        self.columns = columns
        self.running = RunningAnswers()
        self.current = gr.State(None)
        self.threads = gr.State({})
        self.stages, self.no_stages = gr.State(None), gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=280):
                self.prompt_panel = PromptPanel(context)
            with gr.Column(scale=2, min_width=260):
                self.prompt_panel.build_sampling()
                with gr.Row():
                    self.answer = gr.Button("Answer", variant="primary", elem_id="play-answer")
                    self.stop = gr.Button("Stop", visible=False, elem_id="play-stop")
                self.clear = gr.Button("New conversation", visible=False, elem_id="play-clear")
        self.proof = html_piece('<div class="ps-proof"></div>', elem_id="play-proof")
        self.panes = html_piece(compare_view.waiting(), elem_id="play-panes")
        self.detail = html_piece(elem_id="play-detail")
        self.keep_panel = KeepPanel(context)
        with gr.Accordion("The prompt as the models read it", open=False):
            self.prompt = html_piece(elem_id="play-prompt")

    @property
    def inputs(self) -> list[Any]:
        """What `compare` takes."""
        return [self.current, self.threads, self.columns.source, *self.columns.inputs, *self.prompt_panel.inputs]

    @property
    def shown(self) -> list[Any]:
        """What `compare` fills."""
        return [
            self.current, self.threads, self.panes, self.proof, self.prompt, self.detail, self.answer, self.stop,
            self.clear, self.prompt_panel.message, *self.keep_panel.shown,
        ]  # fmt: skip

    def wire(self) -> None:
        """Ties what the user does to the services."""
        form = self.prompt_panel
        self.prompt_panel.wire(self.columns.source)
        asks = [self.answer.click, form.raw.submit, form.message.submit, *(each.submit for each in form.fields)]
        gr.on(asks, guarded(self.compare), self.inputs, self.shown, concurrency_limit=None, show_progress="hidden")
        columns = self.columns
        turned = columns.strength.select(columns.take_strength, None, columns.percent, **LATEST)
        moved = columns.time.slider.select(
            columns.time.take,
            [columns.time.at, columns.time.moments],
            [columns.time.at, self.stages],
            **LATEST,
        )
        for changed, inputs in ((turned, [self.no_stages, *self.inputs]), (moved, [self.stages, *self.inputs])):
            changed.then(
                guarded(self.compare_again),
                inputs,
                self.shown,
                concurrency_limit=None,
                show_progress="hidden",
                trigger_mode="multiple",
            )
        self.stop.click(self.running.cancel, None, None)
        self.clear.click(self.forget, None, self.shown)
        self.panes.select(self.choose_token, self.current, self.detail, show_progress="hidden", **LATEST)
        keep = self.keep_panel
        keep.save.click(guarded(keep.keep), [self.current, keep.name], keep.shown)

    def compare(self, request: gr.Request, *given: Any) -> Iterator[Shown]:
        """Streams all columns; ends within a step when the user stops it or closes the page."""
        base, chosen, percent, at = given[3:7]
        yield from self._asked(request, wire_columns(base, chosen, percent, at), given)

    def compare_again(self, request: gr.Request, stages: list[str] | None, *given: Any) -> Iterator[Shown]:
        """Answers again with another strength or at another time, where something has been asked already."""
        current: Current | None = given[0]
        base, percent = given[3], given[5]
        if stages:
            columns = [column_of(base), *(column_of(model, strength=percent) for model in stages)]
            yield from self._asked(request, columns, given)
        elif current is not None and not current.is_conversation:
            yield from self.compare(request, *given)
        else:
            yield {self.detail: gr.skip()}

    def _asked(self, request: gr.Request, columns: list[Column], given: tuple[Any, ...]) -> Iterator[Shown]:
        _, threads, source, base, *_ = given
        asked = self.prompt_panel.asked(*given[7:])
        if "fields" in asked:
            names = columns_of(source)
            asked["fields"] = {name: text or "" for name, text in zip(names, asked["fields"], strict=False)}
        if "message" in asked:
            columns = self._in_threads(base, columns, asked.pop("message"), threads)
        current = begun(self.context, base, columns, with_rendering(asked, columns, base, source))
        yield from self._answered(request, current)

    def choose_token(self, current: Current | None, event: gr.EventData) -> Any:
        """Shows what both models considered at the token that was pressed."""
        kind, target = picked(event)
        if current is None or kind != "token":
            return gr.skip()
        column, index = (int(number) for number in target.split(":"))
        if current.comparison.panes[column].explained is None:
            return gr.skip()
        return compare_view.detail(current.comparison, column, index)

    def forget(self) -> Shown:
        """Begins a new conversation."""
        return {
            self.threads: {}, self.current: None, self.panes: compare_view.waiting(), self.proof: "", self.detail: "",
            self.clear: gr.Button(visible=False), self.prompt: "",
        }  # fmt: skip

    def _in_threads(
        self, base: str, columns: list[Column], message: str, threads: dict[str, list[dict[str, str]]]
    ) -> list[Column]:
        """The columns, each with its own conversation and the new message at its end."""
        if not base_models.describe(self.context, base)["has_chat_template"]:
            raise InvalidInputError(NO_TEMPLATE)
        if not message.strip():
            raise InvalidInputError("The message is empty. Write something to answer.")
        turn = {"role": "user", "content": message}
        return [{**column, "messages": [*threads.get(_thread_of(column), []), turn]} for column in columns]

    def _answered(self, request: gr.Request, current: Current) -> Iterator[Shown]:
        body = {**current.request, "models": current.columns, "explain": True}
        yield {
            **self._drawn(current, is_running=True), self.detail: compare_view.room_for_detail(), self.current: current,
            **self.keep_panel.wait(),
        }  # fmt: skip
        with self.running.track(request.session_hash) as cancelled:
            try:
                for _ in until_ready(self.context, cancelled):
                    yield {self.panes: compare_view.starting()}
                for _ in follow(self.context, body, current.comparison, cancelled, request.session_hash or "page"):
                    yield self._drawn(current, is_running=True)
            except Exception as fault:
                if not self.running.is_latest(request.session_hash, cancelled):
                    return
                told = compare_view.refused(fault, again="play-answer")
                yield {**self._buttons(is_running=False), self.panes: told, self.detail: "", self.current: None}
                return
            if self.running.is_latest(request.session_hash, cancelled):
                yield self.present(current)

    def present(self, current: Current) -> Shown:
        """Shows a comparison that has been answered."""
        threads = {
            _thread_of(column): [*column["messages"], {"role": "assistant", "content": pane.text}]
            for column, pane in zip(current.columns, current.comparison.panes, strict=True)
            if "messages" in column
        }
        place = current.comparison.most_changed()
        told = {
            **self._drawn(current, is_running=False),
            self.current: current,
            self.detail: compare_view.detail(current.comparison, *place) if place else "",
            self.clear: gr.Button(visible=current.is_conversation),
            **self.keep_panel.offer(),
        }
        return {**told, self.threads: threads, self.prompt_panel.message: ""} if threads else told

    def _drawn(self, current: Current, *, is_running: bool) -> Shown:
        state = current.comparison
        return {
            self.panes: compare_view.panes(state),
            self.proof: compare_view.proof(state),
            self.prompt: compare_view.prompt_shown(state.prompt) if state.prompt else "",
            **self._buttons(is_running=is_running),
        }

    def _buttons(self, *, is_running: bool) -> Shown:
        return {self.answer: gr.Button(visible=not is_running), self.stop: gr.Button(visible=is_running)}


def _thread_of(column: Column) -> str:
    """What a conversation belongs to: a column at any strength."""
    return key_of(column_of(column["model"], column["context"]))
