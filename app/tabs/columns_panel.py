"""What is compared: a base model, up to six columns on it, how strong the prefixes are and at which step."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models, moments, prefixes
from app.services.columns import (
    CONTEXTS,
    FULL_STRENGTH,
    Column,
    column_of,
    column_of_key,
    is_prefixed,
    key_of,
    state_of,
)
from app.tabs.time_panel import TimePanel, at_moment
from app.ui import markup
from app.ui.pieces import picked
from app.ui.slider_view import slider, slider_piece
from storage.errors import InvalidInputError
from storage.settings import MAX_COLUMNS_COMPARED

Updates = tuple[Any, ...]

STRENGTHS = [f"{percent} %" for percent in range(0, FULL_STRENGTH + 1, 5)]
STRENGTHS[0], STRENGTHS[-1] = "0 %: the base's own row", "100 %: as trained"


@dataclass(frozen=True)
class Choice:
    """What is chosen, and what there is to choose from.

    Attributes:
        base: Name of the base model; None where there is none.
        chosen: Keys of the columns.
        source: The first chosen prefix in full.
        bases: Labels and names of the base models.
        columns: Labels and keys of the columns on this base.
    """

    base: str | None
    chosen: list[str]
    source: dict[str, Any] | None
    bases: list[tuple[str, str]]
    columns: list[tuple[str, str]]


class ColumnsPanel:
    """The choice; `source` describes the first chosen prefix, whose rendering holds for all columns."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.source = gr.State(None)
        self.percent = gr.State(FULL_STRENGTH)
        with gr.Row(equal_height=False):
            self.base = gr.Dropdown([], label="Base model", scale=2, min_width=220, elem_id="play-base")
            self.chosen = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=MAX_COLUMNS_COMPARED,
                label="Columns to compare, up to six",
                scale=5,
                min_width=280,
                elem_id="play-columns",
            )
        with gr.Row(equal_height=False, elem_id="play-sliders"):
            with gr.Column(min_width=280):
                self.strength = slider_piece(elem_id="play-strength")
            with gr.Column(min_width=280):
                self.time = TimePanel(context)

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.source, self.base, self.chosen, self.strength, *self.time.shown]

    @property
    def inputs(self) -> list[Any]:
        """What `wire_columns` reads."""
        return [self.base, self.chosen, self.percent, self.time.at]

    def choice(self, base: str | None, chosen: list[str] | None, *, has_default: bool = True) -> Choice:
        """What there is to choose from; what is chosen stays where it still can be.

        Args:
            base: Name of the chosen base.
            chosen: Keys of the chosen columns.
            has_default: Whether two columns are chosen where none is.
        """
        listed = prefixes.listing(self.context)
        bases = _bases(self.context, listed)
        names = [name for _, name in bases]
        if base not in names:
            base = next((each["base_model"] for each in listed if each["base_model"] in names), next(iter(names), None))
        choices = self._choices(base, [each for each in listed if each["base_model"] == base]) if base else []
        keys = [key for _, key in choices]
        chosen = [key for key in chosen or [] if key in keys]
        chosen = chosen or (_two_of(choices) if has_default else [])
        return Choice(base, chosen, self._source(base, chosen, listed), bases, choices)

    def show(self, choice: Choice, percent: int, at: dict[str, str] | None) -> Updates:
        """What fills `shown`."""
        return (
            choice.source,
            gr.Dropdown(choices=choice.bases, value=choice.base),
            gr.Dropdown(choices=choice.columns, value=choice.chosen),
            _strength(choice.source, percent),
            *self.time.show(choice.source, at),
        )

    def _source(self, base: str | None, chosen: list[str], listed: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The first chosen prefix, or else the newest one of the base, with its rendering."""
        models = [column["model"] for column in map(column_of_key, chosen) if column["model"] != base]
        models += [each["name"] for each in listed if each["base_model"] == base]
        return moments.source_of(self.context, models[0], listed) if models else None

    def _choices(self, base: str, listed: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """The base in its contexts, its prefixes, the newest first, and those in training."""
        of_base = [
            (f"Base {words}" if words else "Base, untouched", key_of(column_of(base, context)))
            for context, words in CONTEXTS.items()
        ]
        named = [(each["name"], each["name"]) for each in listed]
        named += [(name, model) for model, name in moments.in_training(self.context, base).items()]
        return of_base + [(markup.isolated_text(name), key_of(column_of(model))) for name, model in named]

    @staticmethod
    def take_strength(event: gr.EventData) -> int:
        """The percent at which the dial came to rest."""
        return int(picked(event)[1]) * FULL_STRENGTH // (len(STRENGTHS) - 1)


def wire_columns(base: str | None, chosen: list[str] | None, percent: int, at: dict[str, str] | None) -> list[Column]:
    """The chosen columns as the wire has them.

    Raises:
        InvalidInputError: None is chosen.
    """
    if not base or not chosen:
        raise InvalidInputError("No column is chosen. Choose the base model or a prefix above.")
    columns = at_moment([column_of_key(key) for key in chosen], at)
    return [
        column_of(column["model"], column["context"], strength=percent) if is_prefixed(column, base) else column
        for column in columns
    ]


def chosen_before(columns: list[Column], base: str) -> tuple[list[str], dict[str, str] | None, int]:
    """The keys, the time and the percent that gave these columns."""
    percent, keys, times = FULL_STRENGTH, [], []
    for column in columns:
        stem, step = state_of(column["model"])
        if is_prefixed(column, base):
            percent = int(column.get("strength", FULL_STRENGTH))
        if step is not None:
            times.append({"of": stem, "model": column["model"]})
        keys.append(key_of(column_of(stem if step is not None else column["model"], column["context"])))
    return list(dict.fromkeys(keys)), times[0] if len(times) == 1 else None, percent


def _bases(context: AppContext, listed: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Base models that can answer, with how many prefixes they have."""
    ready = [each["name"] for each in base_models.listing(context) if each["download_state"] == "ready"]
    counts = {name: sum(each["base_model"] == name for each in listed) for name in ready}
    return [
        (f"{markup.isolated_text(name)} ({markup.count(counts[name], 'prefix', 'prefixes')})", name)
        for name in sorted(ready, key=lambda name: -counts[name])
    ]


def _two_of(choices: list[tuple[str, str]]) -> list[str]:
    """The untouched base, and the newest prefix where there is one."""
    keys = [key for _, key in choices]
    return [*keys[:1], *keys[len(CONTEXTS) : len(CONTEXTS) + 1]]


def _strength(source: dict[str, Any] | None, percent: int) -> str:
    if source is None:
        return ""
    at = percent * (len(STRENGTHS) - 1) // FULL_STRENGTH
    return slider("Strength of the prefixes", STRENGTHS, at, name="play-dial", ends=("base model", "as trained"))
