"""Training of one prefix as a generator of events; knows no database, no page and no job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.engine.base import LoadedBase
from worker.engine.checkpoint import TrainingState
from worker.engine.events import Checkpointed, Diverged, Event, StopReason
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.run import Run

PATIENCE = 4
"""Evaluations without a new best after which a training ends."""


@dataclass
class Control:
    """Wishes of whoever iterates, looked at between steps. To discard a training, stop iterating and close it.

    Attributes:
        stop_requested: End now and keep the best state.
        checkpoint_requested: Yield a `Checkpointed` after the current step; reset when that is done.
    """

    stop_requested: bool = False
    checkpoint_requested: bool = False


def train(
    base: LoadedBase,
    train_examples: Sequence[Example],
    validation_examples: Sequence[Example],
    recipe: Recipe,
    *,
    init_ids: Sequence[int],
    control: Control | None = None,
    resume: TrainingState | None = None,
) -> Iterator[Event]:
    """Trains a prefix in front of a frozen base.

    Args:
        base: The frozen base; its weights are never changed.
        train_examples: Rows to learn from; those longer than the context are left out and counted.
        validation_examples: Held-out rows that choose the best state; may be empty.
        recipe: With every field set (see `automatic.resolve`).
        init_ids: Text that a prefix with `init: text` starts from.
        control: Wishes between steps.
        resume: State to go on from, of the same rows and recipe.

    Yields:
        `Started` first and `Finished` last.

    Raises:
        InvalidRecipeError: A field of the recipe is not set, or the state to resume is of another training.
        ContextOverflowError: No training row fits into the context.
        DivergedError: The loss stopped being a number twice.
        OutOfMemoryError: Not even one row fits into memory.
    """
    control = control or Control()
    run = Run(base, train_examples, validation_examples, recipe, init_ids)
    if resume is not None:
        run.resume(resume)
    yield run.started()
    if resume is None:
        yield from run.look()
    reason: StopReason = "max_steps"
    while run.step < run.max_steps:
        if control.stop_requested:
            reason = "requested"
            break
        if run.bad_evaluations >= PATIENCE:
            reason = "no_improvement"
            break
        event = run.advance()
        yield event
        if isinstance(event, Diverged):
            continue
        is_due = run.step % run.eval_every == 0 or run.step == run.max_steps
        if is_due:
            yield from run.look()
        if is_due or control.checkpoint_requested:
            control.checkpoint_requested = False
            yield Checkpointed(run.step, run.keep())
    if run.evaluated_step < run.step:
        yield from run.look()
    yield run.finished(reason)
