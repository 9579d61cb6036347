"""What is asked of a loaded base at once, a row for each column, and the events that answer it."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.engine.generate import FinishReason
from worker.engine.tokens import Context
from worker.inference.logprobs import TokenLogprobs
from worker.inference.prompts import Prompt
from worker.inference.registry import PrefixEntry, Target
from worker.inference.requests import Sampling


@dataclass(frozen=True)
class Column:
    """One answer that is asked for.

    Attributes:
        target: The model.
        prompt: What it is asked.
        context: What stands in front of the prompt.
        example_source: The prefix whose training rows the few-shot context draws from.
        strength: How much of the prefix is attended to, from 0 to 1, which is all of it.
        draw: Which of several answers to one prompt, so that each draws otherwise from one seed.
    """

    target: Target
    prompt: Prompt
    context: Context = "none"
    example_source: PrefixEntry | None = None
    strength: float = 1.0
    draw: int = 0


@dataclass(frozen=True)
class Started:
    """What a column is about to compute."""

    column: int
    prompt: str
    prompt_tokens: int
    prefix_tokens: int
    max_tokens: int
    prompt_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A token of a column, with the text that can be shown now.

    Attributes:
        column: Whose.
        text: May be empty, and may hold the text of several tokens.
        token_id: The token.
        logprobs: What the model thought of it and of its rivals, where that was asked for; none of an end token.
    """

    column: int
    text: str
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a column.

    Attributes:
        column: Whose.
        finish_reason: `stop` or `length`.
        tokens: Tokens of the answer, an end token included.
        tokens_per_second: Of this column, from the moment its batch began.
        first_token_s: Seconds from that moment to its first token.
    """

    column: int
    finish_reason: FinishReason
    tokens: int
    tokens_per_second: float
    first_token_s: float


@dataclass(frozen=True)
class Proof:
    """That the base's column is the untouched model, and how far the prefix moves the first token.

    Attributes:
        base_verified: Whether the first logits agree with those of stock attention without any bank.
        max_difference: The largest difference among them.
        prefix_kl: KL divergence in nats between the first token's distributions with and without the first prefix that
            was asked the same; None where none was.
    """

    base_verified: bool
    max_difference: float
    prefix_kl: float | None


BatchEvent = list[Started] | Piece | Ended | Proof


@dataclass(frozen=True)
class Batch:
    """Rows for the runner of their base: `list[Started]` comes first, then pieces and ends as they get ready.

    Attributes:
        columns: All of one base.
        sampling: For all of them.
        has_proof: Whether a `Proof` comes behind the first pieces, where a column is the base alone.
    """

    columns: tuple[Column, ...]
    sampling: Sampling
    has_proof: bool = False


def batch_of(columns: Sequence[Column], sampling: Sampling, *, has_proof: bool = False) -> Batch:
    """See `Batch`."""
    return Batch(tuple(columns), sampling, has_proof)
