"""Which parameterisation a recipe trains, in its first state."""

from collections.abc import Sequence
from dataclasses import replace

from worker.engine.base import LoadedBase
from worker.engine.initialise import initial_numbers
from worker.engine.matrices import Matrices
from worker.engine.mlp import MLP
from worker.engine.parameterisation import Direct, Parameterisation
from worker.engine.propagated import Propagated
from worker.engine.recipe import Recipe
from worker.engine.with_outside import WithOutside


def parameterise(base: LoadedBase, recipe: Recipe, init_ids: Sequence[int]) -> Parameterisation:
    """What a recipe trains, in its first state; all of them start from the same numbers.

    Args:
        base: The frozen base.
        recipe: Fully resolved.
        init_ids: Text that a prefix with `init: text` starts from.
    """
    if recipe.method == "prefix-tuning-plus":
        return WithOutside(parameterise(base, replace(recipe, method="prefix-tuning"), init_ids), recipe.seed)
    key_rate_factor = 1.0 if recipe.key_rate_factor is None else recipe.key_rate_factor
    if recipe.reparameterisation == "propagated" and can_propagate(base, recipe):
        vectors = initial_numbers(base, replace(recipe, method="prompt-tuning"), init_ids)
        return Propagated(base, vectors, key_rate_factor)
    numbers = initial_numbers(base, recipe, init_ids)
    if recipe.reparameterisation == "mlp":
        return MLP(numbers, recipe.seed)
    kind = Direct if recipe.reparameterisation == "direct" else Matrices
    return kind(recipe.method, numbers, key_rate_factor)


def can_propagate(base: LoadedBase, recipe: Recipe) -> bool:
    """Whether the prefix can grow from input vectors; where they are all there is, or an encoder reads, matrices do."""
    return recipe.method == "prefix-tuning" and not base.geometry.has_encoder
