"""Small pieces of HTML and of wording; whatever a user wrote is escaped here and nowhere else."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ESCAPES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
"""Characters that HTML leaves alone but that Gradio's own templates would read as code."""


def escape(value: object) -> str:
    """Text from outside, inert in HTML and in the page's templates."""
    return html.escape(str(value), quote=True).translate(ESCAPES)


def isolated(value: object) -> str:
    """Text from outside whose writing direction cannot spill over to what stands beside it."""
    return f"<bdi>{escape(value)}</bdi>"


def isolated_text(value: str) -> str:
    """The same for places that take plain text only, such as the entries of a list."""
    return f"\u2068{value}\u2069"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 row`, `7,477 rows`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def file_size(size_bytes: float) -> str:
    """Bytes as people read them: `96 KB`, `1.2 MB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            digits = 0 if unit in ("bytes", "KB") or size_bytes >= 100 else 1
            return f"{size_bytes:,.{digits}f} {unit}"
        size_bytes /= 1000
    raise AssertionError("every size has a unit")


def parameters(number: int | None) -> str:
    """A number of parameters in short: `3.1 M`, `1.2 B`."""
    if not number:
        return "unknown"
    if number >= 1e9:
        return f"{number / 1e9:.1f} B"
    if number < 1e6:
        return f"{number / 1e3:.0f} K"
    return f"{number / 1e6:.1f} M" if number < 1e8 else f"{number / 1e6:.0f} M"


def duration(seconds: float | None) -> str:
    """A stretch of time in words: `40 s`, `about 3 min`, `about 2 h`."""
    if seconds is None:
        return "a while"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


def score(value: float | None) -> str:
    """A loss or a score with three digits, or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def data_source(told: Mapping[str, Any]) -> str:
    """The data that a job or a prefix comes from, with the version and the start of its hash."""
    if not told.get("dataset_name"):
        return "–"
    if not told.get("dataset_version"):
        return isolated(told["dataset_name"])
    version = f"version {told['dataset_version']}, {escape(str(told['dataset_hash'])[:12])}"
    return f"{isolated(told['dataset_name'])}<br><small>{version}</small>"


def badge(label: str, tone: str = "plain") -> str:
    """A small label; `tone` is plain, good, warn, bad or live."""
    return f'<span class="ps-badge ps-{tone}">{escape(label)}</span>'


def notice(message: str, tone: str = "plain") -> str:
    """One sentence in a box of its own, read out by screen readers."""
    return f'<div class="ps-notice ps-{tone}" role="status">{isolated(message)}</div>'


def empty(title: str, sentence: str) -> str:
    """What stands where nothing is yet, and what to do about it."""
    return f'<div class="ps-empty"><strong>{escape(title)}</strong><p>{escape(sentence)}</p></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values under each other; values are HTML already."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="ps-facts">{rows}</dl>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table that scrolls by itself; cells are HTML already.

    Args:
        headers: Text of the head cells.
        rows: Cells as HTML, as many as there are headers.
        caption: What the table shows, for screen readers.
    """
    head = "".join(f'<th scope="col">{isolated(name)}</th>' for name in headers)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="ps-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="ps-table"><caption class="ps-hidden">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def action(label: str, *, kind: str, target: str, tone: str = "plain") -> str:
    """A button inside HTML; the page hands `kind` and `target` to Python when it is pressed."""
    return (
        f'<button type="button" class="ps-action ps-{tone}" data-kind="{escape(kind)}" data-target="{escape(target)}">'
        f"{escape(label)}</button>"
    )


def card(kind: str, target: str, title: str, *, aside: str = "", body: str = "", is_chosen: bool | None = None) -> str:
    """A card that can be pressed; the page hands `kind` and `target` to Python.

    Args:
        kind: What it stands for, such as `job`.
        target: Its id or name.
        title: Its name, as text.
        aside: Badges at the end of the first line, as HTML.
        body: What stands below, as HTML.
        is_chosen: Whether it is the chosen one of its list; None where nothing is chosen from the list.
    """
    pressed = "" if is_chosen is None else f' aria-pressed="{str(is_chosen).lower()}"'
    line = f'<span class="ps-line"><strong>{isolated(title)}</strong><span>{aside}</span></span>'
    return (
        f'<button type="button" class="ps-card" data-kind="{escape(kind)}" data-target="{escape(target)}"{pressed}>'
        f"{line}{body}</button>"
    )


def progress(share: float) -> str:
    """A bar from 0 to 1."""
    percent = 100 * min(1.0, max(0.0, share))
    return (
        f'<div class="ps-progress" role="progressbar" aria-label="Progress" aria-valuenow="{percent:.0f}">'
        f'<i style="width:{percent:.1f}%"></i></div>'
    )
