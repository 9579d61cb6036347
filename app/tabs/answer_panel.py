"""A prefix answers a table: a file is dropped, looked at, queued; its answers are downloaded when they are there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import answers
from app.tabs.sources_panel import FILE_TYPES
from app.ui import answer_view, markup
from app.ui.pieces import guarded, html_piece, in_turn, sentence

MAX_MISSING = 8
"""Columns that can be told by hand; a template that needs more of them wants a file with its names."""

ACTIVE = ("queued", "running")
REFRESH_S = 1.5
PREFIX_SHOWN = "prefix-shown"
"""What the choice of a prefix and the looks at its tables share: a look must not show those of the prefix before."""

Updates = tuple[Any, ...]


class AnswerPanel:
    """The part of a prefix's page that answers tables; `draft` holds the table that was dropped.

    Args:
        context: The open stores.
        chosen: The id of the prefix.
    """

    def __init__(self, context: AppContext, chosen: gr.State) -> None:
        self.context = context
        self.chosen = chosen
        self.draft = gr.State(None)
        with gr.Column(elem_id="answer-panel"):
            gr.HTML(
                '<p class="ps-title">Answer a table</p><p class="ps-lead">Drop a table without answers. Each row is '
                "answered in the background, and the table comes back with one column more.</p>",
                apply_default_css=False,
            )
            self.file = gr.File(
                label="Your table", file_count="single", file_types=FILE_TYPES, height=140, elem_id="answer-file"
            )
            self.told = html_piece(elem_id="answer-told")
            self.fields = [
                gr.Dropdown([], value=None, visible=False, elem_id=f"answer-column-{number}")
                for number in range(MAX_MISSING)
            ]
            self.start = gr.Button("Answer", variant="primary", visible=False, elem_id="answer-start")
            self.tables = html_piece(elem_id="answer-tables")
        self.timer = gr.Timer(REFRESH_S, active=False)

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.draft, self.told, *self.fields, self.start, self.tables, self.timer]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        self.file.upload(guarded(self.drop), [self.file, self.chosen], [*self.shown, self.file])
        begun = self.start.click(guarded(self.begin), [self.chosen, self.draft, *self.fields], self.shown)
        begun.success(guarded(self.refresh), self.chosen, [self.tables, self.timer], show_progress="hidden")
        self.timer.tick(
            guarded(self.refresh), self.chosen, [self.tables, self.timer], show_progress="hidden",
            **in_turn(PREFIX_SHOWN),
        )  # fmt: skip

    def show(self, prefix_id: str | None) -> Updates:
        """The tables that a prefix was given so far, and nothing dropped."""
        return (*self._cleared(), *self.refresh(prefix_id))

    def refresh(self, prefix_id: str | None) -> Updates:
        """The state of its tables; the page looks again while one of them is under way."""
        listed = answers.listing(self.context, prefix_id) if prefix_id else []
        return answer_view.tables(listed), gr.Timer(active=any(job["status"] in ACTIVE for job in listed))

    def drop(self, path: str | None, prefix_id: str) -> Updates:
        """Reads the table that was dropped; the copy in the page's cache is deleted in any case."""
        file = Path(path or "")
        try:
            draft = answers.read_table(self.context, prefix_id, [(file.name, file)])
        except Exception as fault:
            return (None, markup.notice(sentence(fault), "bad"), *self._no_fields(), gr.Button(visible=False),
                    gr.skip(), gr.skip(), None)  # fmt: skip
        finally:
            if path:
                file.unlink(missing_ok=True)
        missing = [name for name in draft["needed"] if name not in draft["mapping"]]
        words = f"Answer {markup.count(draft['num_rows'], 'row')}"
        return (
            draft,
            answer_view.looked_at(draft),
            *self._fields(missing, draft["columns"]),
            gr.Button(words, visible=True),
            gr.skip(),
            gr.skip(),
            None,
        )

    def begin(self, prefix_id: str, draft: dict[str, Any], *columns: str | None) -> Updates:
        """Queues the table, with the columns that the user named."""
        missing = [name for name in draft["needed"] if name not in draft["mapping"]]
        named = {name: column for name, column in zip(missing, columns, strict=False) if column}
        answers.start(self.context, prefix_id, draft, {**draft["mapping"], **named})
        return self.show(prefix_id)

    def _cleared(self) -> Updates:
        return None, "", *self._no_fields(), gr.Button(visible=False)

    def _no_fields(self) -> list[Any]:
        return self._fields([], [])

    def _fields(self, missing: Sequence[str], columns: Sequence[str]) -> list[Any]:
        choices = [(markup.isolated_text(name), name) for name in columns]
        asked = [
            gr.Dropdown(
                choices=choices, value=None, label=f"Column for {markup.isolated_text(name)}", visible=True,
                interactive=True,
            )
            for name in missing[:MAX_MISSING]
        ]  # fmt: skip
        return [*asked, *(gr.Dropdown(visible=False, value=None) for _ in range(MAX_MISSING - len(asked)))]
