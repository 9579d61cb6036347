"""Comparing learning rates in one pass: which are dropped, and how each of them stands."""

import math
from collections.abc import Sequence

from worker.engine.progress import Candidate
from worker.engine.slot import Slot


def worse_half(slots: Sequence[Slot], keep: int | None = None) -> list[Slot]:
    """The slots that are dropped, the worst first.

    All rates share warm-up and schedule until they are dropped, so at a given step they have the same share of their
    peak. What is left goes on as if it had been alone from the start.

    Args:
        slots: The ones still being tried.
        keep: How many stay; the better half by default.

    Source: Jamieson and Talwalkar 2016, arXiv 1502.07943 (successive halving).
    """
    ranked = sorted(slots, key=Slot.score)
    return ranked[math.ceil(len(ranked) / 2) if keep is None else keep :][::-1]


def leader(slots: Sequence[Slot]) -> int:
    """Index of the best slot so far; between equals the first."""
    return min(range(len(slots)), key=lambda index: slots[index].score())


def standing(slot: Slot, step: int, *, is_chosen: bool = False) -> Candidate:
    """How a slot that is still trained stands."""
    return Candidate(slot.rate, judged_loss(slot), step, "chosen" if is_chosen else "trying")


def judged_loss(slot: Slot) -> float | None:
    """The loss that a slot is compared by; None before there is one."""
    score = slot.score()[0]
    return score if math.isfinite(score) else None


def all_standing(slots: Sequence[Slot], dropped: Sequence[Candidate], step: int) -> tuple[Candidate, ...]:
    """Every rate that is or was tried, by rate."""
    live = [standing(slot, step, is_chosen=len(slots) == 1) for slot in slots]
    return tuple(sorted([*live, *dropped], key=lambda candidate: candidate.rate))
