"""Answers side by side, and the stamp that says why they can be trusted."""

from dataclasses import dataclass, field
from typing import Any

from app.ui import markup

REASONS = {"stop": "ended by itself", "length": "cut at the limit", "cancelled": "stopped"}


@dataclass
class Pane:
    """One column of a comparison while it is written.

    Attributes:
        title: Name of the model that answers.
        note: What it is: the untouched base, or a prefix.
        text: The answer so far.
        tokens: Number of tokens so far.
        tokens_per_second: Speed, once it is known.
        finish_reason: Why the answer ended; None while it is written.
    """

    title: str
    note: str
    text: str = ""
    tokens: int = 0
    tokens_per_second: float | None = None
    finish_reason: str | None = None


@dataclass
class Comparison:
    """All panes, the prompt as the models read it, and the proof."""

    panes: list[Pane]
    prompt: str = ""
    proof: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """Adds what one event of the stream brings.

        Args:
            event: As `/v1/compare` sends it: a piece of text for a column, the end of a column, or the proof.
        """
        if "proof" in event:
            self.proof = event["proof"] or {}
        if "prompt" in event:
            self.prompt = event["prompt"]
        if "column" not in event:
            return
        pane = self.panes[event["column"]]
        if "text" in event:
            pane.text += event["text"]
            pane.tokens += 1
        if event.get("done"):
            pane.finish_reason = event.get("finish_reason") or "stop"
            pane.tokens = event.get("tokens", pane.tokens)
            pane.tokens_per_second = event.get("tokens_per_second")

    def end(self) -> None:
        """Marks what was still being written as stopped."""
        for pane in self.panes:
            pane.finish_reason = pane.finish_reason or "cancelled"


def panes(comparison: Comparison) -> str:
    """The columns; on a phone they stack."""
    return f'<div class="ps-panes">{"".join(_pane(pane) for pane in comparison.panes)}</div>'


def proof(comparison: Comparison) -> str:
    """What was checked of this very comparison, in words."""
    stamp = comparison.proof
    if not stamp:
        return '<div class="ps-proof"></div>'
    parts = []
    if stamp.get("base_verified") is not None:
        gap = stamp.get("max_difference")
        shown = f" (largest difference {gap:.1e})" if gap is not None else ""
        parts.append(
            markup.badge("base verified", "good") + f" its numbers equal the untouched model's{shown}"
            if stamp["base_verified"]
            else markup.badge("base differs", "bad") + f" from the untouched model{shown}"
        )
    if stamp.get("prefix_kl") is not None:
        active = stamp["prefix_kl"] > 1e-4
        words = "prefix active" if active else "prefix without effect here"
        parts.append(
            markup.badge(words, "good" if active else "warn") + f" KL of the first token {stamp['prefix_kl']:.3g}"
        )
    return f'<div class="ps-proof" role="status">{" &nbsp; ".join(parts)}</div>'


def prompt_shown(text: str) -> str:
    """The prompt as the models read it."""
    return f'<div class="ps-sample"><small>The prompt as the models read it</small>{markup.isolated(text)}</div>'


def waiting() -> str:
    """What stands in the panes' place before the first comparison."""
    return markup.empty("Nothing compared yet", "Fill the prompt and press Answer; both columns write at once.")


def starting() -> str:
    """What stands in the panes' place while the model server starts."""
    return markup.notice("The model server is starting; this takes a few seconds …")


def _pane(pane: Pane) -> str:
    footer = []
    if pane.tokens:
        footer.append(markup.count(pane.tokens, "token"))
    if pane.tokens_per_second:
        footer.append(f"{pane.tokens_per_second:,.0f} tokens/s")
    if pane.finish_reason:
        footer.append(REASONS.get(pane.finish_reason, pane.finish_reason))
    silence = "Nothing that can be shown." if pane.tokens else "It ended without a word."
    silence = silence if pane.finish_reason else "…"
    text = markup.isolated(pane.text.lstrip()) if pane.text.strip() else f"<em>{silence}</em>"
    header = f"<header>{markup.isolated(pane.title)}<small>{markup.escape(pane.note)}</small></header>"
    return (
        f'<section class="ps-pane">{header}<div aria-live="off">{text}</div>'
        f"<footer>{markup.escape(', '.join(footer)) or '&nbsp;'}</footer></section>"
    )
