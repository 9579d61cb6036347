"""How much of a base its callers may take at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one runner.

    Attributes:
        max_open: Requests that are answered or wait; one more is told to come later.
        max_rows: Rows that are answered at once.
        max_client_rows: Rows of one client among them, so that others always find room.
        hold_s: Seconds that a step may take for reading prompts while others wait for their next token.
        alone_hold_s: The same where nobody writes, or few beside many whose prompts wait; a caller who leaves frees the
            base within it.
    """

    max_open: int = 50
    max_rows: int = 64
    max_client_rows: int = 48
    hold_s: float = 0.2
    alone_hold_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.max_client_rows <= self.max_rows or self.max_open < 1:
            raise ValueError(
                f"max_client_rows is {self.max_client_rows}, max_rows {self.max_rows} and max_open {self.max_open}; "
                "expected positive numbers, the first at most the second"
            )
