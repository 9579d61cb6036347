"""Histograms of lengths and shares of classes as inline SVG and HTML, in the colours of the theme."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.ui.markup import escape, isolated

WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 24
OPEN = '<figure class="ps-bars"><figcaption>'


def histogram(title: str, told: Mapping[str, Any], unit: str, limit: int | None = None) -> str:
    """Lengths as bars, with the median and the longest in words.

    Args:
        title: What is measured.
        told: `edges`, `rows`, `median` and `longest`, see `storage.doctor.report.histogram`.
        unit: What lengths are counted in, such as `characters`.
        limit: Length that must not be passed, as a dashed line where it lies within the picture.
    """
    edges, rows = told["edges"], told["rows"]
    end, highest = edges[-1] or 1, max(rows) or 1

    def x_of(length: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(length, end) / end

    floor = HEIGHT - BOTTOM
    bars = "".join(
        _bar(x_of(low), x_of(high), floor - (floor - TOP) * count / highest, floor, f"{low:,} to {high:,}: {count:,}")
        for low, high, count in zip(edges, edges[1:], rows, strict=False)
        if count
    )
    ticks = "".join(
        f'<text class="ps-tick" x="{x_of(length):.0f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
        f"{length:,.0f}{more}</text>"
        for length, anchor, more in (
            (0, "start", ""),
            (end / 2, "middle", ""),
            (end, "end", "+" if told["longest"] > end else ""),
        )
    )
    words = f"half of the rows have at most {told['median']:,} {unit}, the longest {told['longest']:,}"
    axis = f'<line class="ps-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {words}")}">'
        f"{axis}{bars}{_limit(limit, end, x_of, floor)}{ticks}</svg>"
    )
    return f"{OPEN}<strong>{escape(title)}</strong>: {escape(words)}</figcaption>{svg}</figure>"


def shares(title: str, classes: Sequence[Sequence[Any]], total: int, others: int) -> str:
    """Classes with their share of the rows, the most frequent first.

    Args:
        title: What is counted.
        classes: Name and number of rows of each that is shown.
        total: Rows of all classes.
        others: Classes that are not shown.
    """
    most = max((count for _, count in classes), default=1)
    lines = "".join(
        f'<li><span class="ps-bar-name">{isolated(_short(name))}</span>'
        f'<span class="ps-bar-line"><i style="width:{100 * count / most:.1f}%"></i></span>'
        f'<span class="ps-bar-number">{count:,} · {count / total:.0%}</span></li>'
        for name, count in classes
    )
    more = f"<li><small>and {others:,} more</small></li>" if others else ""
    return f"{OPEN}<strong>{escape(title)}</strong></figcaption><ul>{lines}{more}</ul></figure>"


def _bar(left: float, right: float, top: float, floor: float, words: str) -> str:
    top = min(top, floor - 1.5)
    return (
        f'<rect class="ps-bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 1):.1f}" '
        f'height="{floor - top:.1f}"><title>{escape(words)}</title></rect>'
    )


def _limit(limit: int | None, end: int, x_of: Any, floor: float) -> str:
    if limit is None or limit > end:
        return ""
    x = x_of(limit)
    anchor = "end" if x > WIDTH / 2 else "start"
    return (
        f'<line class="ps-level" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{floor}"/>'
        f'<text class="ps-tick" x="{x:.1f}" y="{TOP - 6}" text-anchor="{anchor}">room for {limit:,}</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]} …"
