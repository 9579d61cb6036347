"""Our own side: what a job on the page does when its user chooses nothing."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from bench.quality.parts import TaskData
from bench.quality.trained import Trained
from worker.engine.automatic import resolve
from worker.engine.base import LoadedBase
from worker.engine.events import Finished, Started
from worker.engine.prompt_tuning import load_bank
from worker.engine.recipe import Recipe
from worker.engine.tokens import initialisation_ids
from worker.engine.train import train


@dataclass(frozen=True)
class OurMethod:
    """One way to train with our engine.

    Attributes:
        title: For the table.
        recipe: What differs from an empty recipe, for a seed.
    """

    title: str
    recipe: Callable[[int], Recipe]


def _automatic(seed: int) -> Recipe:
    return Recipe(seed=seed)


def _plus(seed: int) -> Recipe:
    return Recipe(method="prefix-tuning-plus", seed=seed)


OURS = "ours"
OURS_PLUS = "ours_plus"
OUR_METHODS: dict[str, OurMethod] = {
    OURS: OurMethod("ours, automatic recipe", _automatic),
    OURS_PLUS: OurMethod("ours, prefix tuning+ (own format)", _plus),
}
"""The first is judged; a method outside PEFT's format has a line of its own."""


def resolved(base: LoadedBase, data: TaskData, asked: Recipe) -> Recipe:
    """The recipe with every field set, as `worker.training.inputs` does it for a job."""
    return resolve(
        asked,
        num_train=len(data.train),
        instruction_tokens=len(base.tokenizer(data.rendering.instruction).input_ids),
        geometry=base.geometry,
        num_base_parameters=base.num_parameters,
        on_gpu=base.device.type == "cuda",
    )


def initial_text(base: LoadedBase, data: TaskData, seed: int, num_tokens: int) -> list[int]:
    """Ids of the instruction and of training rows from all over the table, as a job has them."""
    rows = random.Random(seed).sample(data.train_rows, min(num_tokens, len(data.train_rows)))
    return initialisation_ids(base.tokenizer, data.rendering, rows, num_tokens)


def train_ours(base: LoadedBase, data: TaskData, recipe: Recipe) -> Trained:
    """Trains with a resolved recipe and returns the best state."""
    init_ids = initial_text(base, data, recipe.seed, recipe.num_virtual_tokens or 0)
    num_parameters = 0
    for event in train(base, data.train, data.validation, recipe, init_ids=init_ids):
        if isinstance(event, Started):
            num_parameters = event.num_parameters
        elif isinstance(event, Finished):
            assert event.validation_loss_after is not None
            return Trained(
                base=base,
                bank=load_bank(base, [event.prefix]),
                num_parameters=num_parameters,
                num_examples=event.num_examples,
                rates=recipe.sweep or (recipe.learning_rate or 0.0,),
                learning_rate=event.learning_rate,
                best_step=event.best_step,
                validation_loss=event.validation_loss_after,
            )
    raise AssertionError("a training ends with Finished")
