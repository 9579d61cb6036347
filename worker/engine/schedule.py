"""The learning rate of a step: a linear rise, then a cosine to zero."""

import math


def rate_factor(step: int, max_steps: int, warmup_fraction: float) -> float:
    """Share of the peak rate that a step takes.

    Args:
        step: Counted from 0.
        max_steps: Number of steps.
        warmup_fraction: Share of the steps in which the rate rises.

    Returns:
        Above 0 at the first step, 1 at the peak, and near 0 at the last step.
    """
    warmup_steps = int(max_steps * warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(max_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))
