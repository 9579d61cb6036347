"""The comparison of runs inside the Jobs tab: the ticked jobs, in one picture and side by side."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import compare_runs
from app.ui import compare_runs_view, markup
from app.ui.pieces import html_piece, sentence


class CompareRuns:
    """What takes the place of the single job while runs are compared."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        with gr.Row(elem_classes="ps-ends"):
            self.only = gr.Checkbox(True, label="Settings: differences only", elem_id="runs-only-differences")
            self.close = gr.Button("Back to the job", size="md", min_width=150, scale=0, elem_id="runs-close")
        self.curves = html_piece(elem_id="runs-curves")
        self.results = html_piece(elem_id="runs-results")
        self.settings = html_piece(elem_id="runs-settings")

    @property
    def parts(self) -> dict[str, Any]:
        """The components by name."""
        return {"runs_curves": self.curves, "runs_results": self.results, "runs_settings": self.settings}

    def values(self, marked: list[str] | None, *, only_differences: bool) -> dict[str, Any]:
        """What the components show.

        Args:
            marked: The jobs; None where nothing is compared.
            only_differences: Whether settings that are the same are left out.
        """
        if marked is None:
            return dict.fromkeys(self.parts, "")
        try:
            told = compare_runs.compare(self.context, marked)
        except Exception as fault:
            return dict.fromkeys(self.parts, "") | {"runs_curves": markup.notice(sentence(fault), "warn")}
        return {
            "runs_curves": compare_runs_view.curves(told),
            "runs_results": compare_runs_view.results(told),
            "runs_settings": compare_runs_view.settings(told, only_differences=only_differences),
        }
