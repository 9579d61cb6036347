"""Lengths of the rows in tokens of the chosen base, and the rows that its context does not hold; in the last step."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import datasets, lengths
from app.services.dataset_repairs import preview_repairs
from app.ui import doctor_view, markup
from app.ui.pieces import html_piece, picked, sentence

COUNTING = '<p class="ps-lead" role="status">Counting the tokens of the rows …</p>'

Updates = tuple[Any, ...]


class LengthsPanel:
    """The piece and what fills it; `measured` holds what was counted last, `wish` a repair that was asked for."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.measured = gr.State(None)
        self.wish = gr.State(None)
        with gr.Accordion("Lengths of the rows", open=True, elem_id="train-lengths-fold"):
            self.piece = html_piece(COUNTING, elem_id="train-lengths")

    def count(
        self, dataset: dict[str, Any], base_model: str, measured: dict[str, Any] | None, length: int | None
    ) -> Iterator[Updates]:
        """Counts the tokens; where that was done for this version and this base, what is shown stays."""
        if not length:
            yield None, ""
            return
        is_known = measured and (measured["version_id"], measured["base_model"]) == (dataset["version_id"], base_model)
        if is_known:
            yield gr.skip(), gr.skip()
            return
        yield None, COUNTING
        try:
            measured = lengths.measure(self.context, dataset["id"], base_model)
        except Exception as fault:
            yield None, markup.notice(sentence(fault))
            return
        yield measured, self.draw(measured, length)

    def draw(self, measured: dict[str, Any] | None, length: int | None, tried: dict[str, Any] | None = None) -> str:
        """The finding about rows over the context, and the histograms.

        Args:
            measured: What was counted; nothing is shown before.
            length: Length of the prefix in tokens.
            tried: What leaving the rows out would change.
        """
        if not measured or not length:
            return ""
        found = lengths.too_long(measured, length)
        room = lengths.room_of(measured, length)
        fits = markup.notice(
            f"Every row fits into the context of {measured['base_model']}: {room:,} tokens beside the prefix.", "good"
        )
        told = doctor_view.findings(found, measured["num_rows"], tried) if found else fits
        return told + doctor_view.token_lengths(measured, room)

    def press(self, event: gr.EventData, dataset: dict[str, Any], measured: dict[str, Any], length: int) -> Updates:
        """A button of the finding: shows what would change, closes that, or asks for it."""
        kind, target = picked(event)
        if kind == "repair":
            return target, gr.skip()
        if kind == "leave":
            return None, self.draw(measured, length)
        tried = preview_repairs(self.context, dataset["id"], self._repairs(measured, length))
        return None, self.draw(measured, length, {**tried, "asked": target})

    def repair(self, wish: str | None, dataset: dict[str, Any], measured: dict[str, Any], length: int) -> Any:
        """Leaves the rows out, if that was asked for, and returns the dataset in its new version."""
        if wish is None:
            return gr.skip()
        return datasets.change(self.context, dataset["id"], {"repairs": self._repairs(measured, length)})

    @staticmethod
    def _repairs(measured: dict[str, Any], length: int) -> list[dict[str, Any]]:
        return [each for one in lengths.too_long(measured, length) for each in one["repairs"]]
