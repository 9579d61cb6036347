"""Answers side by side, and the stamp that says why they can be trusted."""

from dataclasses import asdict, dataclass, field
from typing import Any

from app.services.comparison_file import agreement
from app.ui import markup, token_view
from app.ui.pieces import sentence
from storage.errors import BusyError

REASONS = {"stop": "ended by itself", "length": "cut at the limit", "cancelled": "stopped"}
WEAK_KL = 1e-4
"""Mean KL in nats below which a prefix is said to change nothing."""


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
        explained: `mean_kl` and the tokens with both distributions, for a column with a prefix.
        turns: Messages that came before this answer, in a conversation.
    """

    title: str
    note: str
    text: str = ""
    tokens: int = 0
    tokens_per_second: float | None = None
    finish_reason: str | None = None
    explained: dict[str, Any] | None = None
    turns: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Comparison:
    """All panes, the prompt as the models read it, and the proof."""

    panes: list[Pane]
    prompt: str = ""
    proof: dict[str, Any] = field(default_factory=dict)
    is_waiting: bool = False
    """Whether the model server has no place for it yet."""

    @property
    def has_begun(self) -> bool:
        """Whether anything of it has been answered."""
        return bool(self.prompt) or any(pane.tokens for pane in self.panes)

    def take(self, event: dict[str, Any]) -> None:
        """Adds what one event of the stream brings.

        Args:
            event: As `/v1/compare` sends it: a piece of text for a column, its end, its explanation, or the proof.
        """
        self.is_waiting = False
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
        if event.get("explained"):
            pane.explained = event["explained"]
        if event.get("done"):
            pane.finish_reason = event.get("finish_reason") or "stop"
            pane.tokens = event.get("tokens", pane.tokens)
            pane.tokens_per_second = event.get("tokens_per_second")

    def end(self) -> None:
        """Marks what was still being written as stopped."""
        for pane in self.panes:
            pane.finish_reason = pane.finish_reason or "cancelled"

    def result(self) -> dict[str, Any]:
        """What is kept of it: `prompt`, `proof` and `answers`."""
        answers = [
            {name: value for name, value in asdict(pane).items() if name not in ("title", "note", "turns")}
            for pane in self.panes
        ]
        return {"prompt": self.prompt, "proof": self.proof, "answers": answers}

    def most_changed(self) -> tuple[int, int] | None:
        """Column and index of the token with the widest gap; None where nothing is explained."""
        found = []
        for column, pane in enumerate(self.panes):
            tokens = (pane.explained or {}).get("tokens") or []
            index = token_view.widest(tokens)
            if index is not None:
                found.append((abs(token_view.gap(tokens[index])), column, index))
        return max(found)[1:] if found else None


def panes(comparison: Comparison) -> str:
    """The columns; on a phone they stack."""
    shown = "".join(_pane(pane, index) for index, pane in enumerate(comparison.panes))
    explained = any(pane.explained for pane in comparison.panes)
    waits = waiting_for_place() if comparison.is_waiting else ""
    return f'{waits}<div class="ps-panes">{shown}</div>{token_view.legend() if explained else ""}'


def proof(comparison: Comparison) -> str:
    """What was checked of this very comparison, in words."""
    parts = [part for part in (_base_proof(comparison), _prefix_proof(comparison)) if part]
    return f'<div class="ps-proof" role="status">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def detail(comparison: Comparison, column: int, index: int) -> str:
    """What both models considered at one token."""
    pane = comparison.panes[column]
    return token_view.detail(pane.title, (pane.explained or {})["tokens"], index)


def room_for_detail() -> str:
    """Keeps the place of the two lists while an answer is written, so that nothing below jumps."""
    return '<div class="ps-detail-room"></div>'


def prompt_shown(text: str) -> str:
    """The prompt as the models read it."""
    return f'<div class="ps-sample"><small>The prompt as the models read it</small>{markup.isolated(text)}</div>'


def waiting() -> str:
    """What stands in the panes' place before the first comparison."""
    return markup.empty("Nothing compared yet", "Fill the prompt and press Answer; all columns write at once.")


def starting() -> str:
    """What stands in the panes' place while the model server starts."""
    return markup.notice("The model server is starting; this takes a few seconds …")


def waiting_for_place() -> str:
    """What stands above the panes while the model server answers as many others as it takes."""
    return markup.notice("The model server answers as many requests as it takes at once; waiting for a free place …")


def refused(fault: Exception, *, again: str) -> str:
    """What stands in the panes' place where there are no answers; what may go well a moment later is offered again.

    Args:
        fault: Why there are none.
        again: Id of the button that asks.
    """
    if not isinstance(fault, BusyError):
        return markup.notice(sentence(fault), "bad")
    button = f'<button type="button" class="ps-action" data-page-action="press" data-press="{again}">Try again</button>'
    return f'{markup.notice(fault.message, "warn")}<p class="ps-again">{button}</p>'


def _base_proof(comparison: Comparison) -> str:
    stamp = comparison.proof
    if stamp.get("base_verified") is None:
        is_over = comparison.panes and all(pane.finish_reason for pane in comparison.panes)
        return markup.badge("no untouched base among the columns", "warn") if is_over else ""
    gap = stamp.get("max_difference")
    shown = f" (largest difference {gap:.1e})" if gap is not None else ""
    if stamp["base_verified"]:
        return markup.badge("base verified", "good") + f" its numbers {agreement(gap)}{shown}"
    return markup.badge("base differs", "bad") + f" from the untouched model{shown}"


def _prefix_proof(comparison: Comparison) -> str:
    """How far the first prefix moved the first token; what each did over its whole answer stands in its pane."""
    kl = comparison.proof.get("prefix_kl")
    if kl is None or any(pane.explained for pane in comparison.panes):
        return ""
    active = kl > WEAK_KL
    words = "prefix active" if active else "prefix without effect here"
    return markup.badge(words, "good" if active else "warn") + f" KL of the first token {kl:.3g}"


def _pane(pane: Pane, column: int) -> str:
    header = f"<header>{markup.isolated(pane.title)}<small>{markup.escape(pane.note)}</small></header>"
    turns = "".join(
        f'<p class="ps-turn ps-turn-{"user" if turn["role"] == "user" else "model"}">'
        f"<small>{'You' if turn['role'] == 'user' else 'Answer'}</small>{markup.isolated(turn['content'].strip())}</p>"
        for turn in pane.turns
    )
    return (
        f'<section class="ps-pane" aria-label="{markup.escape(pane.title)}">{header}'
        f'<div aria-live="off">{turns}{_answer(pane, column)}</div>'
        f"<footer>{markup.escape(', '.join(_figures(pane))) or '&nbsp;'}{_active(pane)}</footer></section>"
    )


def _answer(pane: Pane, column: int) -> str:
    tokens = (pane.explained or {}).get("tokens")
    if tokens:
        return token_view.marked(tokens, column)
    if pane.text.strip():
        return markup.isolated(pane.text.lstrip())
    silence = "Nothing that can be shown." if pane.tokens else "It ended without a word."
    return f"<em>{silence if pane.finish_reason else '…'}</em>"


def _figures(pane: Pane) -> list[str]:
    figures = []
    if pane.tokens:
        figures.append(markup.count(pane.tokens, "token"))
    if pane.tokens_per_second:
        digits = 0 if pane.tokens_per_second >= 10 else 1
        figures.append(f"{pane.tokens_per_second:,.{digits}f} tokens/s")
    if pane.finish_reason:
        figures.append(REASONS.get(pane.finish_reason, pane.finish_reason))
    return figures


def _active(pane: Pane) -> str:
    """The proof that a prefix took part in this very answer."""
    mean_kl = (pane.explained or {}).get("mean_kl")
    if mean_kl is None:
        return ""
    active = mean_kl > WEAK_KL
    stamp = markup.badge("prefix active" if active else "prefix without effect here", "good" if active else "warn")
    return f'<span class="ps-active">{stamp} mean KL over the answer {mean_kl:.3g} nats</span>'
