"""The time slider: the first chosen prefix as it was at each evaluation, one after the other or several at once."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services.columns import Column
from app.services.moments import Moment, moments_of, spread
from app.ui import markup
from app.ui.pieces import picked
from app.ui.slider_view import slider, slider_piece
from storage.settings import MAX_COLUMNS_COMPARED

Updates = tuple[Any, ...]
ALL_AT_ONCE = "stages"


class TimePanel:
    """The slider; `at` holds whose time it is and the model that stands for it now, `moments` what there is."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.at = gr.State(None)
        self.moments = gr.State([])
        self.slider = slider_piece(elem_id="play-time")

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.slider, self.at, self.moments]

    def show(self, source: dict[str, Any] | None, at: dict[str, str] | None) -> Updates:
        """The slider of a prefix; it stays where it is while the prefix is the same.

        Args:
            source: The first chosen prefix.
            at: Where it stood.
        """
        moments, index = moments_of(self.context, source)
        if source is None or len(moments) < 2:
            return "", None, []
        if at and at["of"] == source["name"]:
            index = next((place for place, each in enumerate(moments) if each["model"] == at["model"]), index)
        words = [each["words"] for each in moments]
        shown = slider(
            "Time of the first prefix",
            words,
            index,
            name="play-moment",
            ends=(words[0].partition(",")[0], words[-1].partition(",")[0]),
            aside=markup.action("Show its stages side by side", kind=ALL_AT_ONCE, target=""),
        )
        return shown, {"of": source["name"], "model": moments[index]["model"]}, moments

    @staticmethod
    def take(
        at: dict[str, str] | None, moments: list[Moment], event: gr.EventData
    ) -> tuple[dict[str, str] | None, list[str] | None]:
        """Where the slider came to rest, or the models of all stages where the button was pressed.

        Args:
            at: Where it stood.
            moments: What there is.
            event: What happened.
        """
        kind, target = picked(event)
        if at is None or kind == ALL_AT_ONCE:
            return at, [each["model"] for each in spread(moments, MAX_COLUMNS_COMPARED - 1)]
        return {**at, "model": moments[int(target)]["model"]}, None


def at_moment(columns: list[Column], at: dict[str, str] | None) -> list[Column]:
    """The columns with the first prefix as it was at the chosen time."""
    if at is None:
        return columns
    return [{**column, "model": at["model"]} if column["model"] == at["of"] else column for column in columns]
