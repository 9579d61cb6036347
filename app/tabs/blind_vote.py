"""The blind vote: two of the chosen columns answer without a name; the vote is kept, then they are revealed."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import moments, votes
from app.services.columns import JOB, Column, label_of
from app.tabs.asking import follow, until_ready, with_rendering
from app.tabs.columns_panel import ColumnsPanel, wire_columns
from app.tabs.prompt_panel import CONVERSATION, PromptPanel, columns_of, drawn, random_row
from app.tabs.running import RunningAnswers
from app.ui import blind_view, compare_view
from app.ui.compare_view import Comparison, Pane
from app.ui.pieces import guarded, html_piece, in_turn
from storage.errors import ConflictError, InvalidInputError

ROW, PROMPT = "A random held-out row", "The prompt of the first tab"

Shown = dict[Any, Any]


@dataclass
class Ballot:
    """Two answers that wait for a vote.

    Attributes:
        base_model: The base of both.
        columns: Who answers, in the order in which they are shown.
        comparison: The answers.
        question: What both were asked, without what stands in front of it for one of them.
        expected: The answer in the data, where it is known.
    """

    base_model: str
    columns: list[Column]
    comparison: Comparison
    question: str
    expected: str | None


class BlindVote:
    """The two panes, the three buttons and the tally; `ballot` holds what waits for a vote."""

    def __init__(self, context: AppContext, columns: ColumnsPanel, prompt_panel: PromptPanel) -> None:
        self.context, self.columns, self.prompt_panel = context, columns, prompt_panel
        self.running = RunningAnswers()
        self.chance = random.SystemRandom()
        self.ballot = gr.State(None)
        html_piece(blind_view.rules(), elem_id="blind-rules")
        with gr.Row(equal_height=False, elem_classes="ps-ends"):
            self.source = gr.Radio(
                [ROW, PROMPT], value=ROW, label="Ask with", scale=3, min_width=280, elem_id="blind-source"
            )
            self.next = gr.Button("Next pair", variant="primary", scale=1, min_width=140, elem_id="blind-next")
        self.question = html_piece(elem_id="blind-question")
        self.panes = html_piece(blind_view.waiting(), elem_id="blind-panes")
        with gr.Row(elem_classes="ps-tight"):
            self.buttons = [
                gr.Button(label, interactive=False, min_width=96, elem_id=f"blind-{name}")
                for label, name in (("A is better", "a"), ("B is better", "b"), ("Tie", "tie"))
            ]
        self.revealed = html_piece(elem_id="blind-reveal")
        self.tally = html_piece(elem_id="blind-tally")

    @property
    def shown(self) -> list[Any]:
        """What `draw` and `vote` fill."""
        return [self.ballot, self.question, self.panes, *self.buttons, self.revealed, self.tally]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        columns, form = self.columns, self.prompt_panel
        inputs = [self.source, columns.source, *columns.inputs, *form.inputs]
        self.next.click(guarded(self.draw), inputs, self.shown, concurrency_limit=None, show_progress="hidden")
        for button, winner in zip(self.buttons, (0, 1, None), strict=True):
            # Two buttons that are pressed at once are one vote: the second finds the ballot gone.
            button.click(
                guarded(partial(self.vote, winner)), self.ballot, self.shown, show_progress="hidden",
                **in_turn("blind-vote"),
            )  # fmt: skip

    def show(self) -> str:
        """The tally as it stands."""
        pairs = votes.tally(self.context)
        return blind_view.standings(votes.standings(pairs)) + blind_view.tally(pairs)

    def draw(self, request: gr.Request, *given: Any) -> Iterator[Shown]:
        """Lets the pair of chosen columns that was judged least answer, in an order that nobody knows."""
        way, source, base, chosen, percent, at, *form = given
        columns = wire_columns(base, chosen, percent, at)
        if len(columns) < 2:
            raise InvalidInputError("A blind vote is between two columns. Choose at least two above.")
        pair = votes.next_pair(self.context, base, columns, self.chance)
        asked, question, expected = self._asked(way, source, form)
        comparison = Comparison([Pane(letter, "") for letter in blind_view.LETTERS])
        body = {**with_rendering(asked, pair, base, source), "models": pair}
        yield {
            self.question: blind_view.question(question), self.panes: blind_view.ballots(comparison),
            self.revealed: "", **self._open(is_open=False),
        }  # fmt: skip
        with self.running.track(request.session_hash) as cancelled:
            try:
                for _ in until_ready(self.context, cancelled):
                    yield {self.panes: compare_view.starting()}
                for _ in follow(self.context, body, comparison, cancelled, request.session_hash or "page"):
                    yield {self.panes: blind_view.ballots(comparison)}
            except Exception as fault:
                yield {self.panes: compare_view.refused(fault, again="blind-next")}
                return
        yield {
            self.ballot: Ballot(base, pair, comparison, question, expected),
            self.panes: blind_view.ballots(comparison),
            **self._open(is_open=True),
        }

    def vote(self, winner: int | None, ballot: Ballot | None) -> Shown:
        """Keeps the vote, then says who was who."""
        if ballot is None:
            raise ConflictError("There is nothing to vote on. Press Next pair first.")
        texts = [pane.text for pane in ballot.comparison.panes]
        votes.vote(self.context, ballot.base_model, ballot.columns, texts, prompt=ballot.question, winner=winner)
        names = moments.names(self.context) if any(JOB in column["model"] for column in ballot.columns) else {}
        labels = [label_of(column, ballot.base_model, names) for column in ballot.columns]
        return {
            self.ballot: None,
            self.revealed: blind_view.reveal(labels, winner, ballot.expected),
            self.tally: self.show(),
            **self._open(is_open=False),
        }

    def _asked(
        self, way: str, source: dict[str, Any] | None, form: list[Any]
    ) -> tuple[dict[str, Any], str, str | None]:
        """The request, it in words, and the answer that the data gives where a row of it is asked."""
        if way == ROW:
            row = random_row(self.context, source)
            turns = source is not None and source["rendering"].get("kind") == CONVERSATION
            told = {"messages": json.loads(row["prompt"])} if turns else {"fields": row["fields"]}
            return {**drawn(*form[1:5]), **told}, row["prompt"], row["target"]
        asked = self.prompt_panel.asked(*form)
        if "fields" in asked:
            named = zip(columns_of(source), asked["fields"], strict=False)
            asked["fields"] = {name: text or "" for name, text in named}
            return asked, "\n".join(f"{name}: {text}" for name, text in asked["fields"].items()), None
        if "message" in asked:
            message = asked.pop("message")
            return {**asked, "messages": [{"role": "user", "content": message}]}, message, None
        return asked, asked["prompt"], None

    def _open(self, *, is_open: bool) -> Shown:
        return {button: gr.Button(interactive=is_open) for button in self.buttons}
