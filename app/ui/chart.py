"""The training curve as inline SVG, so that it follows the theme and never flickers while it grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.ui.markup import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 30
MAX_POINTS = 400

Point = tuple[float, float]
Place = Callable[[Point], Point]


@dataclass(frozen=True)
class Curve:
    """What a job's chart shows.

    Attributes:
        train: (step, loss) of the training rows.
        validation: (step, loss) of the validation rows.
        levels: Name and loss of what the prefix is held against, as dashed lines.
        best_step: Step whose prefix is kept.
        max_steps: Right end of the axis.
    """

    train: Sequence[Point]
    validation: Sequence[Point]
    levels: Sequence[tuple[str, float]] = ()
    best_step: int | None = None
    max_steps: int = 0


def draw(curve: Curve) -> str:
    """Returns the chart as HTML: an SVG and its legend."""
    values = [loss for _, loss in (*curve.train, *curve.validation)] + [loss for _, loss in curve.levels]
    if not values:
        return '<div class="ps-chart ps-empty"><p>The curve appears with the first steps.</p></div>'
    low, high = nice_range(min(values), max(values))
    last = max([curve.max_steps, 1, *(int(step) for step, _ in (*curve.train, *curve.validation))])

    def place(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / last
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - point[1]) / (high - low)

    parts = [grid(low, high, last, place)]
    parts += [_level(index, loss, place, last) for index, (_, loss) in enumerate(curve.levels)]
    parts += [_line("train", curve.train, place), _line("validation", curve.validation, place)]
    parts += [_best(curve, place)]
    label = f"Loss over {last} steps, from {values[0]:.2f} to {values[-1]:.2f}"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    return f'<div class="ps-chart">{svg}{_legend(curve)}</div>'


def nice_range(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis that holds these values with room around them."""
    margin = max((high - low) * 0.08, 0.02)
    return max(0.0, low - margin), high + margin


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Keeps first and last point and an even choice between them: the early steps are never cut off."""
    if len(points) <= MAX_POINTS:
        return points
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * stride)] for index in range(MAX_POINTS)]


def _line(name: str, points: Sequence[Point], place: Place) -> str:
    if not points:
        return ""
    corners = [place(point) for point in thinned(points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    dots = "".join(f'<circle class="ps-dot-{name}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners)
    return f'<polyline class="ps-line-{name}" points="{path}"/>' + (dots if name == "validation" else "")


def _level(index: int, loss: float, place: Place, last: int) -> str:
    (x0, y), (x1, _) = place((0, loss)), place((last, loss))
    return f'<line class="ps-level ps-level-{index}" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def grid(low: float, high: float, last: int, place: Place) -> str:
    """Lines and figures of both axes."""
    parts = []
    for part in range(5):
        value = low + (high - low) * part / 4
        x, y = place((0, value))
        parts.append(f'<line class="ps-grid" x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="ps-tick" x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for part in range(5):
        step = round(last * part / 4)
        x, y = place((step, low))
        anchor = "end" if part == 4 else "middle"  # the last one ends with the axis, or its figures would be cut
        parts.append(f'<text class="ps-tick" x="{x:.1f}" y="{y + 20:.1f}" text-anchor="{anchor}">{step:,}</text>')
    return "".join(parts)


def _best(curve: Curve, place: Place) -> str:
    kept = [point for point in curve.validation if point[0] == curve.best_step]
    if not kept:
        return ""
    x, y = place(kept[-1])
    return f'<circle class="ps-best" cx="{x:.1f}" cy="{y:.1f}" r="7"><title>Best: {kept[-1][1]:.3f}</title></circle>'


def _legend(curve: Curve) -> str:
    entries = ['<span><i class="ps-key-train"></i>training</span>']
    entries.append('<span><i class="ps-key-validation"></i>held-out rows</span>')
    if curve.best_step is not None:
        entries.append(f'<span><i class="ps-key-best"></i>kept: step {curve.best_step:,}</span>')
    for index, (name, loss) in enumerate(curve.levels):
        entries.append(f'<span><i class="ps-key-level ps-level-{index}"></i>{escape(name)}, {loss:.2f}</span>')
    return f'<div class="ps-legend">{"".join(entries)}</div>'
