"""Chooses what a recipe leaves open, from the task and the base; knows no torch."""

import math
from dataclasses import replace

from worker.engine.families import Geometry
from worker.engine.recipe import Recipe

RATE_BY_PARAMETERS: tuple[tuple[float, float], ...] = ((3e6, 1e-1), (3e7, 3e-2), (1e8, 1e-2), (1e9, 5e-3))
"""Parameters of the base to the peak rate, interpolated on logarithms. At 3 million it was chosen among rates that were
tried there (see docs/decisions.md); from 100 million up it is what others report (PEFT's benchmark takes 5e-3 at
3.2 billion)."""

MIN_VIRTUAL_TOKENS, MAX_VIRTUAL_TOKENS = 16, 64
MIN_STEPS, MAX_STEPS = 200, 400
EPOCHS = 8
EVALUATIONS = 10


def resolve(
    recipe: Recipe,
    *,
    num_train: int,
    instruction_tokens: int,
    geometry: Geometry,
    num_base_parameters: int,
    on_gpu: bool,
) -> Recipe:
    """Fills every field that is None; what was chosen by a person stays.

    Args:
        recipe: What was asked for.
        num_train: Training rows.
        instruction_tokens: Tokens of the written instruction, which should fit into the prefix with examples.
        geometry: Measurements of the base.
        num_base_parameters: Its size.
        on_gpu: Whether the training runs on a GPU, where a larger batch costs little.

    Returns:
        A recipe with every field set.
    """
    batch_size = recipe.batch_size or _batch_size(num_train, on_gpu)
    max_steps = recipe.max_steps or _steps(num_train, batch_size)
    return replace(
        recipe,
        num_virtual_tokens=recipe.num_virtual_tokens or _virtual_tokens(instruction_tokens, geometry),
        learning_rate=recipe.learning_rate or _learning_rate(num_base_parameters),
        max_steps=max_steps,
        batch_size=batch_size,
        eval_every=recipe.eval_every or max(max_steps // EVALUATIONS, 1),
    )


def _virtual_tokens(instruction_tokens: int, geometry: Geometry) -> int:
    """Room for the instruction and some examples: 64, more for a long instruction, within a quarter of the context."""
    wanted = max(MAX_VIRTUAL_TOKENS, min(2 * instruction_tokens, 4 * MAX_VIRTUAL_TOKENS))
    return max(min(wanted, geometry.context_length // 4), min(MIN_VIRTUAL_TOKENS, geometry.context_length // 2), 1)


def _learning_rate(num_parameters: int) -> float:
    sizes = [math.log(size) for size, _ in RATE_BY_PARAMETERS]
    rates = [math.log(rate) for _, rate in RATE_BY_PARAMETERS]
    size = min(max(math.log(max(num_parameters, 1)), sizes[0]), sizes[-1])
    upper = next(index for index in range(1, len(sizes)) if size <= sizes[index])
    share = (size - sizes[upper - 1]) / (sizes[upper] - sizes[upper - 1])
    return float(f"{math.exp(rates[upper - 1] + share * (rates[upper] - rates[upper - 1])):.2g}")


def _batch_size(num_train: int, on_gpu: bool) -> int:
    """At least four updates an epoch, so that few rows still make more than one direction to follow."""
    return max(min(32 if on_gpu else 16, num_train // 4), 1)


def _steps(num_train: int, batch_size: int) -> int:
    return min(max(EPOCHS * math.ceil(num_train / batch_size), MIN_STEPS), MAX_STEPS)
