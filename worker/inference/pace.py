"""How many tokens of prompts a step reads, so that those who stream are not held up for long."""

FEWEST, MOST = 64, 4096
"""Fewer tokens cost a step nearly as much as this many, because it reads all weights anyway."""

FIRST_GUESS_S = 0.004
"""Seconds a token before anything is measured: a small base on one processor core."""

NEWER = 0.5
"""Weight of the last step in the running estimate."""


class Pace:
    """Learns what reading a token costs.

    Args:
        hold_s: Seconds that a step may take for reading while others write.
        alone_hold_s: The same where nobody writes, or fewer than half as many as wait to be read: to write beside
            them with few rows would cost everybody more.
    """

    def __init__(self, hold_s: float, alone_hold_s: float) -> None:
        self._hold_s, self._alone_hold_s = hold_s, alone_hold_s
        self._token_s = FIRST_GUESS_S

    def max_prompt_tokens(self, num_writing: int, num_reading: int = 1) -> int:
        """Tokens of prompts for the next step.

        Args:
            num_writing: Rows that write beside it.
            num_reading: Rows whose prompts are to be read.
        """
        hold_s = self._alone_hold_s if 2 * num_writing < num_reading else self._hold_s
        return max(FEWEST, min(MOST, int(hold_s / self._token_s)))

    def learn(self, num_tokens: int, elapsed_s: float) -> None:
        """Takes the time of a step that read so many tokens."""
        if num_tokens >= FEWEST // 4:
            self._token_s += NEWER * (max(elapsed_s / num_tokens, 1e-7) - self._token_s)
