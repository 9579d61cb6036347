"""The settings of one training, checked; knows no torch, so that the page may read it."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from worker.engine.errors import InvalidRecipeError

Method = Literal["prefix-tuning", "prompt-tuning", "prefix-tuning-plus"]
Initialisation = Literal["text", "random"]
Reparameterisation = Literal["direct", "muon", "mlp", "propagated"]
Precision = Literal["auto", "float32", "bfloat16", "int8", "int4"]

RANGES: dict[str, tuple[float, float]] = {
    "num_virtual_tokens": (1, 4096),
    "learning_rate": (1e-6, 10.0),
    "key_rate_factor": (0.0, 100.0),
    "sweep_steps": (1, 100_000),
    "max_steps": (1, 100_000),
    "batch_size": (1, 1024),
    "warmup_fraction": (0.0, 0.9),
    "weight_decay": (0.0, 1.0),
    "max_grad_norm": (0.0, 1000.0),
    "average_decay": (0.0, 0.9999),
    "token_dropout": (0.0, 0.9),
    "eval_every": (1, 100_000),
    "seed": (0, 2**31 - 1),
}
"""Lowest and highest value of each number."""

MAX_SWEEP = 16
"""Learning rates that one training may compare."""


@dataclass(frozen=True)
class Recipe:
    """How a prefix is trained. A field that is None is chosen from the task by `worker.engine.automatic`.

    Attributes:
        method: Key/value vectors in every layer; vectors at the input layer only; or, with plus, as many key/value
            vectors again outside attention's softmax, which no other tool can load.
        num_virtual_tokens: Length P of the prefix in tokens.
        init: Start from the K/V of the instruction and the first examples, or from random numbers.
        reparameterisation: What is trained: the prefix's own numbers with AdamW (direct), the same as matrices with
            Muon (muon), a network whose output they are (mlp), or input vectors that the base carries through its
            layers, and matrices that are added there (propagated). The prefix that comes out is of one kind.
        learning_rate: Peak rate, of the size that fits the prefix's own numbers.
        key_rate_factor: Rate of a prefix's keys as a multiple of its values'; 0 leaves the keys as they start.
        sweep: Peak rates to compare instead of `learning_rate`, in one pass; empty where there is nothing to compare.
        sweep_steps: Steps after which the worse half of the rates is dropped, again and again until one is left; None
            drops at every look at the validation rows.
        max_steps: Number of updates.
        batch_size: Rows per update.
        warmup_fraction: Share of the steps in which the rate rises to its peak; a cosine to zero follows.
        weight_decay: Decoupled decay; towards the start where a change of it is what is trained, else towards zero.
        max_grad_norm: Norm to which the gradient is clipped; 0 leaves it as it is.
        average_decay: Share that a step keeps of the running average of all states, which is what is evaluated and
            published; 0 takes each state as it is.
        token_dropout: Share of the virtual tokens that a step hides from its rows, from the moment on that the training
            loss lies clearly below the validation loss; 0 never hides any.
        eval_every: Steps between two looks at the validation rows.
        seed: Seed of the order of rows and of random numbers.
        precision: Number format of the frozen base; the prefix itself is always fp32. With int8 and int4 its linear
            layers are held in as many bits and computed in what `auto` chooses.

    Raises:
        InvalidRecipeError: A value is outside `RANGES` or not of its kind.
    """

    method: Method = "prefix-tuning"
    num_virtual_tokens: int | None = None
    init: Initialisation = "text"
    reparameterisation: Reparameterisation | None = None
    learning_rate: float | None = None
    key_rate_factor: float | None = None
    sweep: tuple[float, ...] = ()
    sweep_steps: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    warmup_fraction: float = 0.06
    weight_decay: float | None = None
    max_grad_norm: float = 1.0
    average_decay: float | None = None
    token_dropout: float | None = None
    eval_every: int | None = None
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, get_args(Method))
        _check_choice("init", self.init, get_args(Initialisation))
        if self.reparameterisation is not None:
            _check_choice("reparameterisation", self.reparameterisation, get_args(Reparameterisation))
        _check_choice("precision", self.precision, get_args(Precision))
        left_open = {field.name for field in fields(self) if field.default is None}
        for name, (low, high) in RANGES.items():
            if getattr(self, name) is not None or name not in left_open:
                _check_number(name, getattr(self, name), low, high)
        object.__setattr__(self, "sweep", _checked_sweep(self.sweep))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return {**asdict(self), "sweep": list(self.sweep)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Reads settings that came from outside.

        Raises:
            InvalidRecipeError: A name is unknown, or a value is refused.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidRecipeError(f"The recipe has no setting {unknown[0]!r}; it knows {', '.join(sorted(known))}.")
        return cls(**values)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRecipeError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def _checked_sweep(rates: Any) -> tuple[float, ...]:
    """JSON knows lists only, so one is taken for a tuple."""
    if not isinstance(rates, list | tuple) or len(rates) > MAX_SWEEP or len(set(rates)) < len(rates):
        raise InvalidRecipeError(f"sweep is {rates!r}; expected at most {MAX_SWEEP} different learning rates.")
    for rate in rates:
        _check_number("sweep", rate, *RANGES["learning_rate"])
    return tuple(rates)


INTEGERS = {"num_virtual_tokens", "sweep_steps", "max_steps", "batch_size", "eval_every", "seed"}


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int if name in INTEGERS else (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        kind = "a whole number" if name in INTEGERS else "a number"
        raise InvalidRecipeError(f"{name} is {value!r}; expected {kind} from {low:g} to {high:g}.")
    if not low <= value <= high:
        raise InvalidRecipeError(f"{name} is {value:g}; expected {low:g} to {high:g}.")
