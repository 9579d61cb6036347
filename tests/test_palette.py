"""The page's colours in light and dark: every text on what may be behind it, as WCAG 2.1 AA asks for."""

import re

import gradio as gr
import pytest

from app.ui import theme

ENOUGH = 4.5
PAGE = {"light": gr.themes.colors.slate.c50, "dark": gr.themes.colors.slate.c950}
"""What is behind everything; see `theme.build_theme`."""

PLACES = ("page", "card", "field")
TEXTS = {
    "ink": (*PLACES, "accent-soft", "good-soft", "warn-soft", "bad-soft"),
    "soft": PLACES,
    "good": ("page", "card", "good-soft"),
    "warn": ("page", "card", "warn-soft"),
    "bad": ("page", "card", "bad-soft"),
    "accent": ("page", "card", "accent-soft"),
    "second": ("page", "card"),
    **{f"run-{number}": ("page", "card") for number in range(6)},
}
Colour = tuple[float, float, float]

SHEETS = "\n".join(path.read_text(encoding="utf-8") for path in theme.STYLE_SHEETS)
MARK = re.compile(r"\.ps-(?:up|down)-\d \{ background: color-mix\(in srgb, var\(--ps-(\w+)\) (\d+)%, transparent\)")


def palette(name: str) -> dict[str, Colour]:
    """The colours of a theme by their names, the page behind them among these."""
    found: dict[str, str] = {"page": PAGE[name]}
    for selector, rules in re.findall(
        r"^(\.gradio-container|\.dark \.gradio-container) \{(.*?)\}", SHEETS, re.S | re.M
    ):
        if selector == ".gradio-container" or name == "dark":
            found |= dict(re.findall(r"--ps-([a-z0-9-]+): (#[0-9a-f]{6});", rules))
    return {key: (int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)) for key, value in found.items()}


def luminance(colour: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


def mixed(over: Colour, below: Colour, share: float) -> Colour:
    red, green, blue = (share * top + (1 - share) * under for top, under in zip(over, below, strict=True))
    return red, green, blue


@pytest.mark.parametrize("name", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(name: str) -> None:
    colours = palette(name)
    measured = {
        f"{text} on {place}": contrast(colours[text], colours[place])
        for text, places in TEXTS.items()
        for place in places
    }
    assert {pair: round(ratio, 2) for pair, ratio in measured.items() if ratio < ENOUGH} == {}


@pytest.mark.parametrize("name", ["light", "dark"])
def test_marked_tokens_can_be_read_at_every_strength_of_their_mark(name: str) -> None:
    colours, marks = palette(name), MARK.findall(SHEETS)
    assert len(marks) == 6
    for colour, percent in marks:
        for place in ("card", "page"):
            behind = mixed(colours[colour], colours[place], int(percent) / 100)
            assert contrast(colours["ink"], behind) >= ENOUGH, (colour, percent, place)


def test_measure_is_that_of_the_guideline() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)
