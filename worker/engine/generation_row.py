"""What a row of a batch asks for, and what it is told token by token."""

from dataclasses import dataclass
from typing import Literal

from worker.engine.bank import NO_PREFIX

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationRow:
    """What one row of a batch asks for.

    Attributes:
        prompt_ids: At least one id.
        slot: Slot of the bank, or `NO_PREFIX`.
        max_new_tokens: At most so many tokens; see `cap_new_tokens`.
        temperature: 0 is greedy.
        top_p: Share of probability that is drawn from.
        seed: Seed of the row's draws; None takes a fresh one.
        stop: Texts that end the row; they are not shown.
        end_ids: Tokens that end the row; they are not shown.
        strength: How much of the prefix is attended to, from 0, which is the row without a prefix, to 1.
        top_logprobs: How many of the most likely tokens are told with each token.
    """

    prompt_ids: tuple[int, ...]
    slot: int = NO_PREFIX
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    end_ids: frozenset[int] = frozenset()
    top_logprobs: int = 0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt_ids or self.max_new_tokens < 1:
            raise ValueError(
                f"a row has {len(self.prompt_ids)} prompt ids and max_new_tokens {self.max_new_tokens}; expected at "
                "least one of each"
            )
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; expected a number from 0 to 1")

    @property
    def is_plain(self) -> bool:
        """Whether the untouched base answers."""
        return self.slot == NO_PREFIX or self.strength == 0


@dataclass(frozen=True)
class TokenEvent:
    """One token of one row.

    Attributes:
        row: Index of the row in the batch as it was asked for.
        token_id: The token.
        text: What can be shown now; may be empty, and may hold the text of several tokens.
        finish_reason: Set on the last event of a row: `stop` (end token or stop text) or `length`.
        logprob: Natural logarithm of the token's probability under the model.
        top: The most likely tokens with theirs, as many as the row asked for.
    """

    row: int
    token_id: int
    text: str
    finish_reason: FinishReason | None
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
