"""What one training is given, and which of its rows fit."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch

from worker.engine.base import LoadedBase
from worker.engine.errors import ContextOverflowError, InvalidRecipeError
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.reparameterisation import parameterise
from worker.engine.slot import Slot

MAX_VALIDATION_ROWS = 256
"""Rows that an evaluation looks at, drawn once by the seed, so that looking stays cheap beside training."""

REQUIRED = ("num_virtual_tokens", "learning_rate", "max_steps", "batch_size", "eval_every")


@dataclass(frozen=True)
class Training:
    """One prefix that is wanted.

    Attributes:
        train_examples: Rows to learn from; those longer than the context are left out and counted.
        validation_examples: Held-out rows that choose the best state; may be empty.
        recipe: With every field set (see `automatic.resolve`).
        init_ids: Text that a prefix with `init: text` starts from.
    """

    train_examples: Sequence[Example]
    validation_examples: Sequence[Example]
    recipe: Recipe
    init_ids: Sequence[int]


@dataclass(frozen=True)
class FittingRows:
    """The rows of a training that, with the prefix in front, fit into the context.

    Attributes:
        train: Rows to learn from; at least one.
        validation: At most `MAX_VALIDATION_ROWS`.
        left_out: Training rows that are too long.
        left_out_validation: Validation rows that are too long.
    """

    train: list[Example]
    validation: list[Example]
    left_out: int
    left_out_validation: int


def fitting_rows(base: LoadedBase, training: Training) -> FittingRows:
    """Leaves out what is too long.

    Raises:
        ContextOverflowError: No training row fits into the context.
    """
    length = training.recipe.num_virtual_tokens or 0
    fits = base.geometry.fits
    train = [row for row in training.train_examples if fits(len(row.prompt_ids), len(row.target_ids), length)]
    if not train:
        raise ContextOverflowError(
            f"No training row fits into the model's context of {base.geometry.context_length} tokens with "
            f"{length} virtual tokens in front. Shorten the prompts or the prefix."
        )
    validation = [row for row in training.validation_examples if fits(len(row.prompt_ids), len(row.target_ids), length)]
    return FittingRows(
        train=train,
        validation=draw(validation, MAX_VALIDATION_ROWS, training.recipe.seed),
        left_out=len(training.train_examples) - len(train),
        left_out_validation=len(training.validation_examples) - len(validation),
    )


def first_slots(base: LoadedBase, training: Training) -> list[Slot]:
    """The slots that a training begins with: one for each learning rate, all in the same state."""
    recipe = training.recipe
    start = parameterise(base, recipe, training.init_ids)
    rates = recipe.sweep or (recipe.learning_rate or 0.0,)
    return [Slot(recipe, rate, deepcopy(start, {id(base): base})) for rate in rates]


def check_resolved(recipe: Recipe) -> None:
    """Refuses a recipe in which something is still to be chosen.

    Raises:
        InvalidRecipeError: Naming the field.
    """
    unset = [name for name in REQUIRED if getattr(recipe, name) is None]
    if unset:
        raise InvalidRecipeError(f"{unset[0]} is not set; expected a recipe that automatic.resolve has completed.")


def draw(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """At most `count` of the rows, the same for the same seed."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [examples[index] for index in order[:count]]
