"""The verdict on a prefix: one sentence, a small table, what it saves, and the rows that it changed most."""

from collections.abc import Sequence
from typing import Any

from app.services import verdict
from app.ui import markup

TONES = {"helps": "good", "no difference": "plain", "worse": "bad", "mixed": "warn"}
ROW_HEADERS = ("Held-out prompt", "Expected", "Base model", "With the prefix")
ROW_NAMES = ("prompt", "expected", "base", "prefix")
ELSEWHERE = "These figures came with the file; they were measured elsewhere."


def shown(evaluation: dict[str, Any] | None, *, imported: bool = False) -> str:
    """The verdict as HTML; empty where nobody has compared anything.

    Args:
        evaluation: `metrics["evaluation"]`.
        imported: Whether the prefix came as a file.
    """
    if not evaluation:
        return ""
    if not verdict.is_judged(evaluation):
        return markup.notice(verdict.sentence(evaluation))
    word = verdict.overall(evaluation)
    savings = verdict.savings(evaluation)
    notes = [*verdict.notes(evaluation), *([ELSEWHERE] if imported else [])]
    parts = [
        f'<p class="ps-title">Does it help? {markup.badge(word, TONES[word])}</p>',
        markup.notice(verdict.sentence(evaluation), TONES[word]),
        _table(evaluation),
        f'<p class="ps-lead">{markup.escape(savings)}</p>' if savings else "",
        _rows(evaluation.get("rows") or {}),
        _fold("How this was measured", "".join(f"<p>{markup.escape(note)}</p>" for note in notes)),
    ]
    return f'<section class="ps-verdict" aria-label="Verdict">{"".join(parts)}</section>'


def _table(evaluation: dict[str, Any]) -> str:
    told = verdict.table(evaluation)
    cells = []
    for (side, figure, difference, *others), span in zip(told.rows, told.ranges, strict=True):
        is_prefix = side == verdict.SIDES["prefix"]
        name = f"<strong>{markup.escape(side)}</strong>" if is_prefix else markup.escape(side)
        cells.append([name, _figure(figure) + _span(span), _against(difference), *map(_below, others)])
    # A hyphen at which no line ends: ROUGE-L is one word.
    headers = [header.replace("-", "\N{NON-BREAKING HYPHEN}") for header in told.headers]
    return markup.table(headers, cells, "Figures of base model and prefix on held-out rows")


def _figure(text: str) -> str:
    return f'<span class="ps-nowrap">{markup.escape(text)}</span>'


def _below(text: str) -> str:
    """A figure with its range below it: `75 % (68 to 82)` on two lines."""
    value, _, span = text.partition(" (")
    return markup.escape(value) + (
        f'<small class="ps-nowrap">{markup.escape(span.removesuffix(")"))}</small>' if span else ""
    )


def _against(difference: str) -> str:
    """A verdict as a badge, with its figures below."""
    word, _, figures = difference.partition(": ")
    if not figures:
        return markup.escape(difference)
    return f"{markup.badge(word, TONES.get(word, 'plain'))}<small>{markup.escape(figures)}</small>"


def _span(span: Sequence[float]) -> str:
    """A bar from 0 to 1 with the value and its range; the same is said in figures beside it."""
    low, value, high = (100 * min(1.0, max(0.0, end)) for end in span)
    return (
        '<span class="ps-span" aria-hidden="true">'
        f'<i style="width:{value:.1f}%"></i><b style="left:{low:.1f}%;width:{high - low:.1f}%"></b></span>'
    )


def _rows(rows: dict[str, list[dict[str, Any]]]) -> str:
    tables = [
        f'<p class="ps-soft">{title}</p>{_answers(rows[name], title)}'
        for name, title in (("gained", "Gained most against the base"), ("lost", "Lost most against the base"))
        if rows.get(name)
    ]
    return _fold("Rows that gained and lost most", "".join(tables)) if tables else ""


def _answers(rows: Sequence[dict[str, Any]], caption: str) -> str:
    cells = [
        [f'<div class="ps-clip">{markup.isolated(row.get(name) or "–")}</div>' for name in ROW_NAMES] for row in rows
    ]
    return markup.table(ROW_HEADERS, cells, caption)


def _fold(title: str, content: str) -> str:
    return f'<details class="ps-fold"><summary>{markup.escape(title)}</summary>{content}</details>'
