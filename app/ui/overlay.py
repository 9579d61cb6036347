"""Curves of several runs in one picture: told apart by letters, dashes and marks, and by colour beside those."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.ui.chart import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Place, Point, grid, nice_range, thinned
from app.ui.markup import escape, isolated

RIGHT = 30
"""Room for the letter at the end of each curve."""

MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")
LETTERS = "ABCDEF"
MIN_LETTER_GAP = 14.0


@dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        name: As its user called it.
        train: (step, loss) of the training rows.
        validation: (step, loss) of the validation rows.
        note: What else the legend says of it.
    """

    name: str
    train: Sequence[Point]
    validation: Sequence[Point]
    note: str = ""


def draw(traces: Sequence[Trace]) -> str:
    """Returns the picture as HTML: validation as strong lines, training faint behind them, and the legend."""
    points = [point for trace in traces for point in (*trace.train, *trace.validation)]
    if not points:
        return '<div class="ps-chart ps-empty"><p>The curves appear with the first steps.</p></div>'
    losses = [loss for _, loss in points]
    low, high = nice_range(min(losses), max(losses))
    last = max(1, *(int(step) for step, _ in points))

    def place(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / last
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - point[1]) / (high - low)

    faint = "".join(_line(f"ps-faint ps-run-{index}", trace.train, place) for index, trace in enumerate(traces))
    strong = "".join(_strong(index, trace, place) for index, trace in enumerate(traces))
    label = f"Loss of {len(traces)} runs over up to {last} steps: {', '.join(trace.name for trace in traces)}"
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{grid(low, high, last, place)}{faint}{strong}{_letters(traces, place)}</svg>"
    )
    return f'<div class="ps-chart">{svg}{_legend(traces)}</div>'


def letter(index: int) -> str:
    """What the run is called in the picture and at the head of its column, in its colour."""
    return f'<b class="ps-letter ps-run-{index}">{LETTERS[index]}</b>'


def _line(kind: str, points: Sequence[Point], place: Place) -> str:
    if not points:
        return ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, thinned(points)))
    return f'<polyline class="{kind}" points="{path}"/>'


def _strong(index: int, trace: Trace, place: Place) -> str:
    marks = "".join(_mark(index, *place(point)) for point in thinned(trace.validation))
    return _line(f"ps-strong ps-run-{index} ps-dash-{index}", trace.validation, place) + marks


def _mark(index: int, x: float, y: float) -> str:
    kind, shape = f"ps-mark-{MARKS[index]} ps-run-{index}", MARKS[index]
    if shape in ("circle", "ring"):
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'
    paths = {
        "square": "m-3.2,-3.2h6.4v6.4h-6.4z",
        "triangle": "m0,-4.2l4,7h-8z",
        "diamond": "m0,-4.6l4.2,4.6l-4.2,4.6l-4.2,-4.6z",
        "cross": "m-3.4,-3.4l6.8,6.8m0,-6.8l-6.8,6.8",
    }
    return f'<path class="{kind}" d="M{x:.1f},{y:.1f}{paths[shape]}"/>'


def _letters(traces: Sequence[Trace], place: Place) -> str:
    """Each curve's letter beside its end; those that would lie on each other are moved apart."""
    ends = [(index, trace.validation or trace.train) for index, trace in enumerate(traces)]
    placed = sorted((place(points[-1])[1], place(points[-1])[0], index) for index, points in ends if points)
    parts, free_from = [], float("-inf")
    for y, x, index in placed:
        y = max(y, free_from)
        free_from = y + MIN_LETTER_GAP
        parts.append(f'<text class="ps-end ps-run-{index}" x="{x + 7:.1f}" y="{y + 4:.1f}">{LETTERS[index]}</text>')
    return "".join(parts)


def _legend(traces: Sequence[Trace]) -> str:
    entries = [
        f'<span><svg class="ps-key" viewBox="0 0 34 12" aria-hidden="true">'
        f'<line class="ps-strong ps-run-{index} ps-dash-{index}" x1="0" x2="34" y1="6" y2="6"/>{_mark(index, 17, 6)}'
        f"</svg>{letter(index)} {isolated(trace.name)}{f', {escape(trace.note)}' if trace.note else ''}</span>"
        for index, trace in enumerate(traces)
    ]
    faint = '<span class="ps-soft-key">faint: training rows</span>'
    return f'<div class="ps-legend">{"".join(entries)}{faint}</div>'
