"""Which parameterisation a recipe trains, in its first state."""

from collections.abc import Sequence

from worker.engine.base import LoadedBase
from worker.engine.initialise import initial_numbers
from worker.engine.matrices import Matrices
from worker.engine.mlp import MLP
from worker.engine.parameterisation import Direct, Parameterisation
from worker.engine.recipe import Recipe


def parameterise(base: LoadedBase, recipe: Recipe, init_ids: Sequence[int]) -> Parameterisation:
    """What a recipe trains, in its first state; all of them start from the same numbers.

    Args:
        base: The frozen base.
        recipe: Fully resolved.
        init_ids: Text that a prefix with `init: text` starts from.
    """
    numbers = initial_numbers(base, recipe, init_ids)
    if recipe.reparameterisation == "mlp":
        return MLP(numbers, recipe.seed)
    kind = Matrices if recipe.reparameterisation == "muon" else Direct
    return kind(recipe.method, numbers, 1.0 if recipe.key_rate_factor is None else recipe.key_rate_factor)
