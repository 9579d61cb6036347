"""What a training tells while it runs; whoever iterates decides what to keep and to show."""

from dataclasses import dataclass
from typing import Literal

from worker.engine.checkpoint import TrainingState
from worker.engine.errors import EngineError
from worker.engine.prefix_file import PrefixArray
from worker.engine.progress import Candidate

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
        sweep: Learning rates that are about to be compared; empty where one is given or has been found.
    """

    num_parameters: int
    num_base_parameters: int
    max_steps: int
    first_step: int
    num_train: int
    num_validation: int
    left_out: int
    left_out_validation: int
    sweep: tuple[float, ...] = ()


@dataclass(frozen=True)
class StepMetrics:
    """One update; while several learning rates are compared, of the one that leads.

    Attributes:
        step: Updates so far, counted from 1.
        loss: Mean over the batch's target tokens, in nats, before the update.
        learning_rate: Rate of the update.
        tokens_per_second: Real tokens (no padding) per second of the update, of all learning rates that are compared.
        num_tokens: Real tokens of the update, likewise.
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
    """One look at the validation rows; while several learning rates are compared, of the one that leads.

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
class Looked:
    """The prefix at an evaluation as it is, best or not; while learning rates are compared, of the one that leads.

    It comes behind `Evaluated`, and where there are no validation rows in its place.

    Attributes:
        step: Updates so far; 0 is the prefix as it starts.
        validation_loss: Nats per target token with this prefix; None without validation rows.
        prefix: Its numbers, a copy.
    """

    step: int
    validation_loss: float | None
    prefix: PrefixArray


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
    """The loss stopped being a number; the training went back and goes on with a lower rate.

    Attributes:
        step: The update that failed.
        resumed_step: The step that it went back to.
        learning_rate: The peak rate from now on.
    """

    step: int
    resumed_step: int
    learning_rate: float


@dataclass(frozen=True)
class Compared:
    """Where every learning rate stands that is or was tried; after each look while they are compared.

    Attributes:
        step: Updates so far.
        candidates: In the order of the recipe.
    """

    step: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Eliminated:
    """A learning rate is no longer tried.

    Attributes:
        rate: The rate.
        step: Updates that it made.
        validation_loss: What it was judged by (see `progress.Candidate`); None where its loss stopped being a number.
    """

    rate: float
    step: int
    validation_loss: float | None


@dataclass(frozen=True)
class Chosen:
    """One learning rate is left, and the training goes on with it.

    Attributes:
        rate: The rate.
        step: Updates so far.
        steps: Its own updates until now, so that its curve can be told from the start.
        evaluations: Its own looks at the validation rows until now.
    """

    rate: float
    step: int
    steps: tuple[StepMetrics, ...]
    evaluations: tuple[Evaluated, ...]


@dataclass(frozen=True)
class Failed:
    """The last event of one of several trainings that cannot go on; the others do.

    Attributes:
        error: Why.
    """

    error: EngineError


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
        learning_rate: Peak rate that it began with: the recipe's, or the one that won.
        num_examples: Rows that were learned from, once for each learning rate that took them.
    """

    prefix: PrefixArray
    best_step: int
    num_steps: int
    reason: StopReason
    validation_loss_before: float | None
    validation_loss_after: float | None
    learning_rate: float
    num_examples: int

    @property
    def stopped_early(self) -> bool:
        """Whether a person ended it before its planned steps."""
        return self.reason == "requested"


Event = (
    Started
    | StepMetrics
    | Evaluated
    | Looked
    | Checkpointed
    | Diverged
    | Compared
    | Eliminated
    | Chosen
    | Finished
    | Failed
)
