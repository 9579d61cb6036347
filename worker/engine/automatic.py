"""Chooses what a recipe leaves open, from the task and the base; knows no torch."""

import math
from dataclasses import replace

from worker.engine.families import Geometry
from worker.engine.recipe import Method, Recipe, Reparameterisation

RateBySize = tuple[tuple[float, float], ...]

MUON_RATES: RateBySize = ((1e7, 0.08), (1e9, 0.03))
"""Parameters of the base to the middle of the rates that are compared, interpolated on logarithms: shares of the spread
of real keys and values. Measured at 5 million; a larger base needs smaller changes, as the rates for AdamW show."""

PROPAGATED_RATES: RateBySize = ((1e7, 0.05), (1e9, 0.02))
"""The same for a prefix that grows from input vectors. At 5 million 0.04 to 0.08 end alike, and 0.16 worse."""

MEASURED_PARAMETERS = 10_000_000
"""Up to this size of the base one rate is enough for such a prefix; beyond it the rate is a guess, so several run."""

PROMPT_FACTOR = 2.5
"""Muon's rate for prompt tuning as a multiple of a prefix's: input vectors bear larger steps (at 5 million)."""

ADAMW_RATES: RateBySize = ((3e6, 0.1), (3e7, 0.03), (1e8, 0.01), (1e9, 0.005))
"""The same for AdamW. At 3 million it was chosen among rates that were tried there; from 100 million up it is what
others report (PEFT's benchmark takes 5e-3 at 3.2 billion)."""

KEY_RATE_FACTOR: dict[Reparameterisation, float] = {
    "propagated": 0.3,
    "muon": 0.3,
    "direct": 1.0,
    "mlp": 1.0,
}
"""Rate of the keys as a multiple of the values': keys decide who looks where, and fast ones make high rates collapse.
Measured with Muon; the network of the MLP has no keys apart."""

SWEEP_FACTORS = (0.5, 1.0, 2.0)
"""Rates that are compared in one pass, as multiples of the middle one. More of them would cost steps: at equal examples
a longer training is worth more than a finer choice; where the rate is known, more than any choice."""

RUNG = 0.1
"""Share of the steps after which the worst rate is dropped, and after as many again the next."""

AVERAGE_DECAY = 0.98
"""The running average reaches back over about fifty steps (see docs/decisions.md)."""

WEIGHT_DECAY = 0.1
"""Pull towards the start of a prefix that grows from input vectors; three times as much is too strong."""

TOKEN_DROPOUT = 0.1
"""Hidden tokens where a prefix begins to know its rows by heart; where it does not, hiding any would hold it back."""

MIN_VIRTUAL_TOKENS, MAX_VIRTUAL_TOKENS = 16, 64
MIN_STEPS, MAX_STEPS = 300, 600
MIN_STEPS_OF_ONE_RATE = 440
"""At least so many where no rates are compared: together about as many rows as three rates see."""

EPOCHS = 13
EVALUATIONS = 16


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

    Where no learning rate is chosen, several are compared (`sweep`).

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
    kind = recipe.reparameterisation or _kind(recipe.method, geometry)
    middle = _middle_rate(recipe.method, kind, num_base_parameters)
    is_known = kind == "propagated" and num_base_parameters <= MEASURED_PARAMETERS
    factors = () if recipe.learning_rate or is_known else SWEEP_FACTORS
    sweep = recipe.sweep or tuple(_rounded(factor * middle) for factor in factors)
    max_steps = recipe.max_steps or _steps(num_train, batch_size, MIN_STEPS if sweep else MIN_STEPS_OF_ONE_RATE)
    return replace(
        recipe,
        num_virtual_tokens=recipe.num_virtual_tokens or _virtual_tokens(instruction_tokens, geometry),
        reparameterisation=kind,
        learning_rate=recipe.learning_rate or _rounded(middle),
        key_rate_factor=KEY_RATE_FACTOR[kind] if recipe.key_rate_factor is None else recipe.key_rate_factor,
        sweep=sweep,
        sweep_steps=recipe.sweep_steps or max(round(RUNG * max_steps), 1),
        max_steps=max_steps,
        batch_size=batch_size,
        weight_decay=_decay(kind) if recipe.weight_decay is None else recipe.weight_decay,
        average_decay=AVERAGE_DECAY if recipe.average_decay is None else recipe.average_decay,
        token_dropout=TOKEN_DROPOUT if recipe.token_dropout is None else recipe.token_dropout,
        eval_every=recipe.eval_every or max(max_steps // EVALUATIONS, 1),
    )


def _kind(method: Method, geometry: Geometry) -> Reparameterisation:
    """A prefix grows from input vectors where it can: not where they are all there is, nor where an encoder reads."""
    return "muon" if method == "prompt-tuning" or geometry.has_encoder else "propagated"


def _decay(kind: Reparameterisation) -> float:
    return WEIGHT_DECAY if kind == "propagated" else 0.0


def _middle_rate(method: Method, kind: Reparameterisation, num_parameters: int) -> float:
    if kind == "propagated":
        return interpolated(PROPAGATED_RATES, num_parameters)
    if kind != "muon":
        return interpolated(ADAMW_RATES, num_parameters)
    return interpolated(MUON_RATES, num_parameters) * (PROMPT_FACTOR if method == "prompt-tuning" else 1.0)


def interpolated(table: RateBySize, num_parameters: int) -> float:
    """The rate for a base between those of a table, level beyond its ends."""
    sizes = [math.log(size) for size, _ in table]
    rates = [math.log(rate) for _, rate in table]
    size = min(max(math.log(max(num_parameters, 1)), sizes[0]), sizes[-1])
    upper = next(index for index in range(1, len(sizes)) if size <= sizes[index])
    share = (size - sizes[upper - 1]) / (sizes[upper] - sizes[upper - 1])
    return math.exp(rates[upper - 1] + share * (rates[upper] - rates[upper - 1]))


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _virtual_tokens(instruction_tokens: int, geometry: Geometry) -> int:
    """Room for the instruction and some examples: 64, more for a long instruction, within a quarter of the context."""
    wanted = max(MAX_VIRTUAL_TOKENS, min(2 * instruction_tokens, 4 * MAX_VIRTUAL_TOKENS))
    return max(min(wanted, geometry.context_length // 4), min(MIN_VIRTUAL_TOKENS, geometry.context_length // 2), 1)


def _batch_size(num_train: int, on_gpu: bool) -> int:
    """At least four updates an epoch, so that few rows still make more than one direction to follow."""
    return max(min(32 if on_gpu else 16, num_train // 4), 1)


def _steps(num_train: int, batch_size: int, least: int) -> int:
    return min(max(EPOCHS * math.ceil(num_train / batch_size), least), MAX_STEPS)
