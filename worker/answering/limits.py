"""How long an answer may get and where it ends, told by the answers that the prefix was trained on."""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from storage.stored_rows import Row
from worker.engine.conversations import ConversationError
from worker.engine.rendering import Rendering
from worker.engine.tokens import render_row, target_ids_of
from worker.evaluation.metrics import task_kind

MAX_TARGETS = 20_000
"""Training answers that are looked at, spread over all of them."""

NUM_LONGEST = 64
"""Of the longest in characters, one is the longest in tokens."""

DEFAULT_TOKENS = 256
MAX_TOKENS = 1024
"""No default goes beyond it; a user's own wish may."""


@dataclass(frozen=True)
class AnswerLimits:
    """Where answers end, besides at their end token.

    Attributes:
        max_tokens: Tokens of the longest answer.
        cut_at: Text at which an answer is cut, because no right answer holds it; empty where none is known.
        is_labels: Whether the training answers are few and short, so that counts of answers say something.
    """

    max_tokens: int
    cut_at: str = ""
    is_labels: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def trimmed(self, answer: str) -> str:
        """An answer without what goes beyond the form of the training answers, as the evaluation trims it."""
        stripped = answer.strip()
        return stripped.split(self.cut_at, 1)[0].rstrip() if self.cut_at else stripped


def limits_of(
    tokenizer: PreTrainedTokenizerBase, rendering: Rendering, rows: Sequence[Row], wish: int | None = None
) -> AnswerLimits:
    """The limits that suit a prefix.

    Args:
        tokenizer: Tokenizer of the base.
        rendering: How the prefix renders, its kind decided.
        rows: Rows that it was trained on; none where they are gone.
        wish: Tokens that the user allows instead.
    """
    targets = known_targets(rendering, rows)
    if not targets:
        return AnswerLimits(wish or DEFAULT_TOKENS)
    longest_texts = heapq.nlargest(NUM_LONGEST, targets, key=len)
    longest = max(len(target_ids_of(tokenizer, rendering.kind, text)) for text in longest_texts)
    marks = ("\n", "\n\n")
    cut_at = next((mark for mark in marks if not any(mark in target.strip() for target in targets)), "")
    return AnswerLimits(
        max_tokens=wish or min(MAX_TOKENS, longest + max(4, longest // 4)),
        cut_at=cut_at,
        is_labels=task_kind(targets) == "labels",
    )


def known_targets(rendering: Rendering, rows: Sequence[Row]) -> list[str]:
    """Answers that are known to be right, from all over the training rows."""
    stride = max(1, -(-len(rows) // MAX_TARGETS))
    found = []
    for row in rows[::stride]:
        try:
            found.append(render_row(rendering, row)[1])
        except ConversationError:
            continue
    return found
