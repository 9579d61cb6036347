"""What a training tells while it runs; whoever iterates decides what to keep and to show."""

from dataclasses import dataclass
from typing import Literal

from worker.engine.checkpoint import TrainingState
from worker.engine.prefix_file import PrefixArray

StopReason = Literal["max_steps", "no_improvement", "requested"]


@dataclass(frozen=True)
class Started:
    """The first event.

    Attributes:
        num_parameters: Numbers that are trained.
        num_base_parameters: Numbers of the frozen base.
        max_steps: Steps that are planned.
        first_step: 0, or the step that a resumed training goes on from.
        num_train: Rows that are trained on.
        num_validation: Rows that every evaluation looks at.
        left_out: Training rows that, with the prefix, are longer than the context.
        left_out_validation: Validation rows for which the same holds.
    """

    num_parameters: int
    num_base_parameters: int
    max_steps: int
    first_step: int
    num_train: int
    num_validation: int
    left_out: int
    left_out_validation: int


@dataclass(frozen=True)
class StepMetrics:
    """One update.

    Attributes:
        step: Updates so far, counted from 1.
        loss: Mean over the batch's target tokens, in nats, before the update.
        learning_rate: Rate of the update.
        tokens_per_second: Real tokens (no padding) per second of the update.
        num_tokens: Real tokens of the batch.
        gradient_norm: Before clipping.
    """

    step: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    num_tokens: int
    gradient_norm: float


@dataclass(frozen=True)
class Evaluated:
    """One look at the validation rows.

    Attributes:
        step: Updates so far; 0 is the prefix as it starts.
        validation_loss: Nats per target token with the prefix.
        is_best: Whether it is the lowest so far.
        base_validation_loss: The untouched base on the same rows.
    """

    step: int
    validation_loss: float
    is_best: bool
    base_validation_loss: float


@dataclass(frozen=True)
class Checkpointed:
    """A state from which the same training goes on bit for bit.

    Attributes:
        step: Updates so far.
        state: For `checkpoint.write_checkpoint`.
    """

    step: int
    state: TrainingState


@dataclass(frozen=True)
class Diverged:
    """The loss stopped being a number; the training went back once and goes on with a lower rate.

    Attributes:
        step: The update that failed.
        resumed_step: The step that it went back to.
        learning_rate: The peak rate from now on.
    """

    step: int
    resumed_step: int
    learning_rate: float


@dataclass(frozen=True)
class Finished:
    """The last event.

    Attributes:
        prefix: The best state by validation loss; the last one where there are no validation rows.
        best_step: The step it is from.
        num_steps: Updates that were made.
        reason: Why it ended.
        validation_loss_before: The untouched base, nats per target token; None without validation rows.
        validation_loss_after: With the prefix; None without validation rows.
    """

    prefix: PrefixArray
    best_step: int
    num_steps: int
    reason: StopReason
    validation_loss_before: float | None
    validation_loss_after: float | None

    @property
    def stopped_early(self) -> bool:
        """Whether a person ended it before its planned steps."""
        return self.reason == "requested"


Event = Started | StepMetrics | Evaluated | Checkpointed | Diverged | Finished
