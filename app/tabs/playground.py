"""The Playground: which columns, then one prompt, many rows, a blind vote, or what was saved."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models, comparisons, jobs, prefixes
from app.services.columns import FULL_STRENGTH, JOB, column_of, key_of
from app.tabs.blind_vote import BlindVote
from app.tabs.columns_panel import Choice, ColumnsPanel, chosen_before
from app.tabs.current import reopened
from app.tabs.many_rows import ManyRowsPanel
from app.tabs.one_prompt import OnePrompt
from app.tabs.prompt_panel import CHAT, FIELDS, RAW
from app.tabs.saved_comparisons import SavedComparisons
from app.ui import markup
from app.ui.pieces import LATEST, guarded
from storage.errors import NotFoundError

Updates = tuple[Any, ...]
Shown = dict[Any, Any]


class PlaygroundTab:
    """The columns, which hold for all that is below, and the ways to ask them."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.columns = ColumnsPanel(context)
        with gr.Tabs(elem_id="play-tabs") as self.tabs:
            with gr.Tab("One prompt", id="one"):
                self.one = OnePrompt(context, self.columns)
            with gr.Tab("Many rows", id="many") as self.many_tab:
                self.many = ManyRowsPanel(context, self.columns)
            with gr.Tab("Blind vote", id="blind") as self.blind_tab:
                self.blind = BlindVote(context, self.columns, self.one.prompt_panel)
            with gr.Tab("Saved", id="saved") as self.saved_tab:
                self.saved = SavedComparisons(context)

    @property
    def inputs(self) -> list[Any]:
        """What `visit` takes."""
        return [self.saved.wanted, *self.columns.inputs, self.one.prompt_panel.kind, self.columns.source]

    @property
    def form(self) -> list[Any]:
        """What `show` fills."""
        return [*self.columns.shown, *self.one.prompt_panel.shown]

    @property
    def shown(self) -> list[Any]:
        """What `visit` fills."""
        form = self.one.prompt_panel
        whole = [*self.form, *self.one.shown, *form.sampling, self.columns.percent, self.saved.wanted, self.tabs]
        return list(dict.fromkeys(whole))

    @property
    def followers(self) -> list[Any]:
        """What `show_chosen` fills."""
        return [self.columns.source, *self.form[3:]]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        columns, saved = self.columns, self.saved
        for control, show, shown in (
            (columns.base, self.show_base, [self.form[0], *self.form[2:]]),
            (columns.chosen, self.show_chosen, self.followers),
            (self.one.prompt_panel.kind, self.show_chosen, self.followers),
        ):
            control.input(
                guarded(show), self.inputs[1:-1], shown, show_progress="hidden", **LATEST, concurrency_id="play-form"
            )
        self.one.wire()
        self.many.wire()
        self.blind.wire()
        self.blind_tab.select(guarded(self.blind.show), None, self.blind.tally, show_progress="hidden")
        self.saved_tab.select(guarded(saved.show), None, saved.cards, show_progress="hidden")
        last = {**LATEST, "concurrency_id": "saved", "show_progress": "hidden"}
        acted = saved.cards.select(guarded(saved.act), None, [saved.wanted, saved.cards], **last)
        acted.success(guarded(self.open_wanted), saved.wanted, self.shown, **last)

    def cancel(self, request: gr.Request) -> None:
        """Ends what is being written for a browser tab."""
        for each in (self.one, self.many, self.blind):
            each.running.cancel(request)

    def show(
        self, base: str | None, chosen: list[str] | None, percent: int, at: dict[str, str] | None, kind: str
    ) -> Updates:
        """Offers the columns there are, and the fields of the first chosen prefix."""
        return self._shown(self.columns.choice(base, chosen), percent, at, kind)

    def show_base(
        self, base: str | None, chosen: list[str] | None, percent: int, at: dict[str, str] | None, kind: str
    ) -> Updates:
        """What follows from another base, which itself is left alone: the next one may be chosen already."""
        source, _, *others = self.show(base, chosen, percent, at, kind)
        return source, *others

    def show_chosen(
        self, base: str | None, chosen: list[str] | None, percent: int, at: dict[str, str] | None, kind: str
    ) -> Updates:
        """What follows from the choice, which itself is left alone: the next one may be made already."""
        shown = self._shown(self.columns.choice(base, chosen, has_default=False), percent, at, kind)
        return shown[0], *shown[3:]

    def show_prefix(self, prefix_id: str) -> Updates:
        """A prefix beside its base."""
        prefix = prefixes.describe(self.context, prefix_id)
        return self._beside_base(prefix["base_model"], prefix["name"])

    def show_training(self, job_id: str) -> Updates:
        """The latest state of a training beside its base; the time slider leads to the earlier ones."""
        return self._beside_base(jobs.describe(self.context, job_id)["base_model"], f"{JOB}{job_id}")

    def _beside_base(self, base: str, model: str) -> Updates:
        return self.show(base, [key_of(column_of(base)), key_of(column_of(model))], FULL_STRENGTH, None, FIELDS)

    def visit(self, wanted: str | None, *given: Any) -> Shown:
        """Opens what the address names; else looks for new prefixes, and what is filled in already stays."""
        if wanted:
            return self.open_wanted(wanted)
        base, chosen, percent, at, kind, source = given
        choice = self.columns.choice(base, chosen)
        if source is None or choice.source != source:
            shown = dict(zip(self.form, self._shown(choice, percent, at, kind), strict=True))
        else:
            shown = dict(zip(self.form[:3], self.columns.show(choice, percent, at)[:3], strict=True))
        # What stays chosen is not written back: the next choice may be made already.
        if choice.base == base:
            shown[self.columns.base] = gr.Dropdown(choices=choice.bases)
        if choice.chosen == chosen:
            shown[self.columns.chosen] = gr.Dropdown(choices=choice.columns)
        return shown

    def open_wanted(self, wanted: str | None) -> Shown:
        """Shows a comparison that was kept, with the form as it was."""
        if wanted is None:
            return {self.saved.wanted: None}
        try:
            told = comparisons.describe(self.context, wanted)
        except NotFoundError as fault:
            form = self.show(None, None, FULL_STRENGTH, None, FIELDS)
            return {
                **dict(zip(self.form, form, strict=True)),
                self.saved.wanted: None,
                self.one.panes: markup.notice(fault.message, "warn"),
            }
        return {**self._form_of(told), **self._answers_of(told), self.tabs: gr.Tabs(selected="one")}

    def _answers_of(self, told: dict[str, Any]) -> Shown:
        current = reopened(self.context, told)
        return {**self.one.present(current), **self.one.keep_panel.kept(told), self.saved.wanted: None}

    def _form_of(self, told: dict[str, Any]) -> Shown:
        """The form as it was when a comparison was asked, as far as its prefixes are still there."""
        asked = told["request"]
        keys, at, percent = chosen_before(told["columns"], told["base_model"])
        choice = self.columns.choice(told["base_model"], keys)
        kind = FIELDS if "fields" in asked else RAW if "prompt" in asked else CHAT
        form = self._shown(choice, percent, at, kind, asked)
        sampling = zip(self.one.prompt_panel.sampling, ("max_tokens", "temperature", "top_p", "seed"), strict=True)
        drawn = {component: asked[name] for component, name in sampling if asked.get(name) is not None}
        return {**dict(zip(self.form, form, strict=True)), **drawn, self.columns.percent: percent}

    def _shown(
        self,
        choice: Choice,
        percent: int,
        at: dict[str, str] | None,
        kind: str,
        asked: dict[str, Any] | None = None,
    ) -> Updates:
        base = base_models.describe(self.context, choice.base) if choice.base else {}
        return *self.columns.show(choice, percent, at), *self.one.prompt_panel.show(
            choice.source, kind, bool(base.get("has_chat_template")), asked
        )
