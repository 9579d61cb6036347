"""Measured answers, and the medians of paired ratios that come of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """Tokens of answers, and the seconds that they took."""

    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / max(self.seconds, 1e-9)


Side = Callable[[int], Timed]
"""Answers the requests of a round."""


def take_turns(sides: Sequence[Side], rounds: int) -> list[list[Timed]]:
    """Lets sides answer the same rounds in turn, whoever begins changing with each.

    Returns:
        By side, one measurement a round.
    """
    measured: list[list[Timed]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            measured[place].append(sides[place](number))
    return measured


def ratio_of_speeds(ours: Sequence[Timed], theirs: Sequence[Timed]) -> float:
    """Median of our tokens per second over theirs, round by round."""
    return statistics.median(a.speed / b.speed for a, b in zip(ours, theirs, strict=True))


def ratio_of_seconds(ours: Sequence[Timed], theirs: Sequence[Timed]) -> float:
    """Median of our seconds over theirs, round by round."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))


def speed_of(measured: Sequence[Timed]) -> float:
    """Median of tokens per second."""
    return statistics.median(one.speed for one in measured)
