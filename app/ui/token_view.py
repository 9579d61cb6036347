"""Where a prefix changed the base's mind: tokens marked by the gap of log-probabilities, and both lists of ten."""

import math
from collections.abc import Sequence
from typing import Any

from app.ui import markup
from app.ui.visible import revealed

LEVELS = (0.5, 1.5, 3.5)
"""Gaps in nats from which on a mark is light, middling, strong."""

LEGEND = (
    ("ps-up-1", "a little likelier with the prefix"),
    ("ps-up-3", "far likelier"),
    ("ps-down-1", "a little less likely"),
    ("ps-down-3", "far less likely"),
)

Token = dict[str, Any]


def marked(tokens: Sequence[Token], column: int) -> str:
    """An answer whose tokens can be chosen: by a click, or with the arrow keys and Enter.

    Args:
        tokens: As an explanation lists them.
        column: Number of the column, which the chosen token is told with.
    """
    return f"<bdi>{''.join(_token(token, column, index) for index, token in enumerate(tokens))}</bdi>"


def legend() -> str:
    """What the marks mean."""
    keys = "".join(f'<span><i class="ps-token {name}">abc</i> {words}</span>' for name, words in LEGEND)
    return (
        f'<p class="ps-token-legend">{keys}<span>Choose a token to see what both considered; '
        "arrow keys move from one to the next.</span></p>"
    )


def widest(tokens: Sequence[Token]) -> int | None:
    """Index of the token whose gap is the largest; None where there is no token."""
    return max(range(len(tokens)), key=lambda index: abs(gap(tokens[index])), default=None)


def gap(token: Token) -> float:
    """By how many nats the prefix made a token likelier."""
    return float(token["logprob"]) - float(token["base_logprob"])


def detail(title: str, tokens: Sequence[Token], index: int) -> str:
    """Both top-ten lists at one token of an answer."""
    token = tokens[index]
    place = f"Token {index + 1:,} of {len(tokens):,} in {markup.isolated(title)}"
    with_prefix, without = probability(token["logprob"]), probability(token["base_logprob"])
    sentence = (
        f"{place}: <strong>{_shown(token['text'])}</strong>, {with_prefix} likely with the prefix and {without} for "
        f"the base. KL here {token['kl']:.3g} nats."
    )
    lists = _list("With the prefix", token["top"], token["text"]) + _list(
        "Base model, after the same words", token["base_top"], token["text"]
    )
    return f'<section aria-live="polite"><p class="ps-soft">{sentence}</p><div class="ps-pair">{lists}</div></section>'


def probability(logprob: float) -> str:
    """A log-probability as a share: `92 %`, `0.25 %`."""
    percent = 100 * math.exp(min(0.0, logprob))
    if percent < 0.01:
        return "under 0.01 %"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _token(token: Token, column: int, index: int) -> str:
    told = f"{probability(token['logprob'])} with the prefix, {probability(token['base_logprob'])} for the base"
    shown = _kept(token["text"].lstrip() if index == 0 and token["text"].strip() else token["text"])
    return (
        f'<span class="ps-token {_mark(gap(token))}" role="button" tabindex="{0 if index == 0 else -1}" '
        f'data-kind="token" data-target="{column}:{index}" title="{told}">{shown}</span>'
    )


def _mark(nats: float) -> str:
    level = sum(abs(nats) >= bound for bound in LEVELS)
    return f"ps-{'up' if nats > 0 else 'down'}-{level}" if level else ""


def _kept(text: str) -> str:
    """The text of a token as it stands in the answer, with a sign where there would be nothing to choose."""
    if not text:
        return '<i class="ps-sign" title="part of a character">·</i>'
    return markup.escape(text).replace("\n", '<i class="ps-sign">↵</i>\n')


def _shown(text: str) -> str:
    return f"<bdi>{revealed(text)}</bdi>" if text else "(part of a character)"


def _list(title: str, top: Sequence[Sequence[Any]], chosen: str) -> str:
    rows = "".join(
        f"<li{' class=ps-written' if text == chosen else ''}>"
        f'<span class="ps-bar-name">{_shown(text)}</span>'
        f'<span class="ps-bar-line"><i style="width:{100 * math.exp(min(0.0, logprob)):.1f}%"></i></span>'
        f'<span class="ps-bar-number">{probability(logprob)}</span></li>'
        for text, logprob in top
    )
    return f'<figure class="ps-bars"><figcaption><strong>{title}</strong></figcaption><ul>{rows}</ul></figure>'
