"""The blind vote: two answers without names, who they were, and the tally with its interval."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup
from app.ui.compare_view import Comparison

LETTERS = "AB"
_TITLE = '<p class="ps-title">{}</p>'


def rules() -> str:
    """How the vote goes, and why it is about two at a time."""
    return (
        '<p class="ps-lead">Two of the chosen columns answer at a time, without their names and in an order drawn by '
        "chance; two answers can be judged more surely than six. With three or more columns chosen, the pair with the "
        "fewest votes comes next, so that every column meets every other.</p>"
    )


def waiting() -> str:
    """What stands where the answers will."""
    return markup.empty("Nobody has answered yet", "Press Next pair; two of the chosen columns answer under A and B.")


def question(text: str) -> str:
    """What both are asked."""
    return f'<div class="ps-sample"><small>Both are asked</small>{markup.isolated(text)}</div>'


def ballots(comparison: Comparison) -> str:
    """Two answers under A and B; nothing but their words is told."""
    shown = "".join(_ballot(letter, pane.text) for letter, pane in zip(LETTERS, comparison.panes, strict=True))
    return f'<div class="ps-panes ps-blind">{shown}</div>'


def reveal(labels: Sequence[str], winner: int | None, expected: str | None) -> str:
    """Who was who, and what the data says."""
    rows = [
        f"<li>{letter} was <strong>{markup.isolated(label)}</strong>"
        f"{' ' + markup.badge('your choice', 'good') if winner == at else ''}</li>"
        for at, (letter, label) in enumerate(zip(LETTERS, labels, strict=True))
    ]
    told = f"<p>The answer in the data: {markup.isolated(expected)}</p>" if expected is not None else ""
    tie = "<p>You called it a tie.</p>" if winner is None else ""
    return f'<div class="ps-notice" role="status"><ul>{"".join(rows)}</ul>{tie}{told}</div>'


def tally(pairs: Sequence[dict[str, Any]]) -> str:
    """How every pair stands."""
    if not pairs:
        return markup.empty("No votes yet", "Each vote is counted here, pair by pair, with how sure the count is.")
    headers = ("Pair", "Votes", "Share of the first")
    return _TITLE.format("Pair by pair") + markup.table(
        headers, [_pair(pair) for pair in pairs], "Tally of blind votes"
    )


def standings(columns: Sequence[dict[str, Any]]) -> str:
    """How every column stands against all others together; nothing while one pair says it all."""
    if not columns:
        return ""
    headers = ("Column", "Votes", "Preferred to the others")
    return _TITLE.format("All columns") + markup.table(headers, [_standing(each) for each in columns], "All columns")


def _standing(column: dict[str, Any]) -> list[str]:
    name = (
        f"<strong>{markup.isolated(column['label'])}</strong><small>on {markup.isolated(column['base_model'])}</small>"
    )
    votes = f"{column['wins']:,} : {column['losses']:,}<small>{markup.count(column['ties'], 'tie')}</small>"
    return [name, votes, _share(column)]


def _ballot(letter: str, text: str) -> str:
    shown = markup.isolated(text.lstrip()) if text.strip() else "<em>…</em>"
    return f'<section class="ps-pane" aria-label="{letter}"><header>{letter}</header><div>{shown}</div></section>'


def _pair(pair: dict[str, Any]) -> list[str]:
    first, second = (markup.isolated(label) for label in pair["labels"])
    says = "Only ties so far." if pair["share"] is None else _sentence(first, second, pair)
    names = f"<strong>{first}</strong> against {second}<small>on {markup.isolated(pair['base_model'])}</small>{says}"
    wins, losses = pair["wins"]
    votes = f"{wins:,} : {losses:,}<small>{markup.count(pair['ties'], 'tie')}</small>"
    if pair["share"] is None:
        return [names, votes, "–"]
    return [names, votes, _share(pair)]


def _share(counted: dict[str, Any]) -> str:
    low, share, high = (100 * counted[name] for name in ("low", "share", "high"))
    span = (
        f'<span class="ps-span" aria-hidden="true"><i style="width:{share:.1f}%"></i>'
        f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b></span>'
    )
    return f'<span class="ps-nowrap">{share:.0f} %</span><small>95 % interval {low:.0f} to {high:.0f} %</small>{span}'


def _sentence(first: str, second: str, pair: dict[str, Any]) -> str:
    if pair["low"] > 0.5:
        return f"{first} is preferred."
    if pair["high"] < 0.5:
        return f"{second} is preferred."
    return "Too close to tell yet."
