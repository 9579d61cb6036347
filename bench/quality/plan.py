"""The sweep of a peer: its rates, halved again and again, within at least as many examples as ours may see."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from worker.engine.recipe import Recipe

NUM_RATES = 4
"""Rates of most peers; more than ours tries, because a peer's rate means something else for each method."""

RUNG = 0.3
"""Share of a peer's steps after which the worse half of its rates is dropped, and after as many again the next."""

LOOKS = 10
"""Looks at the validation rows in a peer's training."""


@dataclass(frozen=True)
class Segment:
    """Steps between two looks at the validation rows.

    Attributes:
        begin: First step, counted from 0.
        end: The step after its last one.
        num_alive: Rates that are still tried in it.
    """

    begin: int
    end: int
    num_alive: int


@dataclass(frozen=True)
class SweepPlan:
    """How several rates are tried within one budget of examples.

    Attributes:
        rates: Peak rates, one candidate each.
        max_steps: Updates of a candidate that is never dropped; its schedule's length.
        batch_size: Rows of an update.
        num_train: Rows of an epoch, whose last batch may have fewer than the others.
        eval_every: Steps between two looks at the validation rows.
        sweep_steps: Steps after which the worse half of the candidates is dropped, until one is left.
    """

    rates: tuple[float, ...]
    max_steps: int
    batch_size: int
    num_train: int
    eval_every: int
    sweep_steps: int

    @classmethod
    def like(cls, recipe: Recipe, rates: tuple[float, ...], num_train: int) -> "SweepPlan":
        """The shortest plan whose examples are no fewer than those of a resolved recipe, with rates of its own.

        Args:
            recipe: Ours.
            rates: Those to try; a single one is trained all the way.
            num_train: Training rows.
        """
        batch_size = recipe.batch_size or 0
        ours = cls(recipe.sweep or (0.0,), recipe.max_steps or 0, batch_size, num_train, recipe.eval_every or 1,
                   recipe.sweep_steps or 1)  # fmt: skip
        max_steps = 0
        while True:
            max_steps += LOOKS if max_steps >= LOOKS else 1
            plan = cls(
                rates, max_steps, batch_size, num_train, max(max_steps // LOOKS, 1), max(round(RUNG * max_steps), 1)
            )
            if plan.num_examples >= ours.num_examples:
                return plan

    @property
    def rows_per_step(self) -> float:
        """Mean over an epoch."""
        return self.num_train / math.ceil(self.num_train / self.batch_size)

    def segments(self) -> Iterator[Segment]:
        """The plan in order."""
        begin, num_alive = 0, len(self.rates)
        for end in range(1, self.max_steps + 1):
            is_rung = num_alive > 1 and end % self.sweep_steps == 0
            if not (is_rung or end % self.eval_every == 0 or end == self.max_steps):
                continue
            yield Segment(begin, end, num_alive)
            begin, num_alive = end, math.ceil(num_alive / 2) if is_rung else num_alive

    @property
    def num_examples(self) -> int:
        """Rows that all candidates see together."""
        return round(self.rows_per_step * sum((part.end - part.begin) * part.num_alive for part in self.segments()))


def spread(low: float, high: float, count: int) -> tuple[float, ...]:
    """Rates at equal ratios from the lowest to the highest; the geometric middle where there is only one."""
    if count == 1:
        return (float(f"{math.sqrt(low * high):.3g}"),)
    return tuple(float(f"{low * (high / low) ** (index / (count - 1)):.3g}") for index in range(count))
