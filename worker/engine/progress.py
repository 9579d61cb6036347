"""Where a training stands, beside its tensors: plain numbers that go into JSON and come back the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class StepPoint(NamedTuple):
    """One update of one prefix: mean loss before it, the rate it took, the gradient's norm before clipping."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


class EvaluationPoint(NamedTuple):
    """One look at the validation rows."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was or is being tried.

    Attributes:
        rate: The peak rate.
        loss: Its best validation loss so far; its mean training loss without validation rows; None before a look, and
            where the loss stopped being a number.
        step: Updates that it made.
        state: Whether it is still being tried, was dropped, or won.
    """

    rate: float
    loss: float | None
    step: int
    state: Literal["trying", "dropped", "chosen"]


@dataclass(frozen=True)
class SlotProgress:
    """One prefix under training; see `slot.Slot` for what the numbers mean."""

    rate: float
    best_step: int
    best_loss: float | None
    latest_loss: float | None
    bad_evaluations: int
    num_divergences: int
    is_hiding: bool = False
    loss_since_look: float = 0.0
    steps_since_look: int = 0
    steps: tuple[StepPoint, ...] = ()
    evaluations: tuple[EvaluationPoint, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a training stands. Nothing in a step is random, so there is no random state.

    Attributes:
        step: Updates so far; the next step's rows follow from it and the seed.
        base_loss: Validation loss of the untouched base.
        evaluated_step: Last step that was evaluated.
        num_examples: Rows that were learned from so far, once for each slot that took them.
        micro_batch_size: Rows that are computed at once.
        is_checkpointing: Whether activations are computed again to save memory.
        num_train: Rows that are trained on.
        recipe: The settings that it runs under.
        slots: The prefixes under training: one, or one for each learning rate that is still being tried.
        lead: Which of them is the best so far.
        dropped: Rates that are no longer tried.
        base_fingerprint: Of the weights that it learns on, filled in by whoever keeps the state beyond this process.
    """

    step: int
    base_loss: float | None
    evaluated_step: int
    num_examples: int
    micro_batch_size: int
    is_checkpointing: bool
    num_train: int
    recipe: Mapping[str, Any]
    slots: tuple[SlotProgress, ...]
    lead: int = 0
    dropped: tuple[Candidate, ...] = ()
    base_fingerprint: str = ""


def progress_from_dict(values: Mapping[str, Any]) -> Progress:
    """What `dataclasses.asdict` gave, read back from JSON.

    Raises:
        TypeError: A field is missing or unknown.
    """
    slots = tuple(_slot_from_dict(slot) for slot in values["slots"])
    dropped = tuple(Candidate(**candidate) for candidate in values["dropped"])
    return Progress(**{**values, "slots": slots, "dropped": dropped})


def _slot_from_dict(values: Mapping[str, Any]) -> SlotProgress:
    steps = tuple(StepPoint(*point) for point in values["steps"])
    evaluations = tuple(EvaluationPoint(*point) for point in values["evaluations"])
    return SlotProgress(**{**values, "steps": steps, "evaluations": evaluations})
