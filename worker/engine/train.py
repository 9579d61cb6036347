"""Training of prefixes as a generator of events; knows no database, no page and no job."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from worker.engine.base import LoadedBase
from worker.engine.carrying import Share
from worker.engine.checkpoint import TrainingState
from worker.engine.errors import EngineError
from worker.engine.events import Checkpointed, Event, Failed, StopReason
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.run import Run
from worker.engine.training import Training
from worker.engine.update import Updater

PATIENCE = 8
"""Evaluations without a new best after which a training ends: half of an automatic schedule, since much of what is
gained comes when the rate falls at its end."""


@dataclass
class Control:
    """Wishes of whoever iterates, looked at between steps. To discard a training, stop iterating and close it.

    Attributes:
        stop_requested: End now and keep the best state.
        checkpoint_requested: Yield a `Checkpointed` after the current step; reset when that is done.
        leave_requested: Drop this training at once, with no further event; others in the same pass go on.
    """

    stop_requested: bool = False
    checkpoint_requested: bool = False
    leave_requested: bool = False


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
        recipe: With every field set (see `automatic.resolve`); several learning rates are compared in one pass.
        init_ids: Text that a prefix with `init: text` starts from.
        control: Wishes between steps.
        resume: State to go on from, of the same rows and recipe.

    Yields:
        `Started` first and `Finished` last.

    Raises:
        InvalidRecipeError: A field of the recipe is not set, or the state to resume is of another training.
        ContextOverflowError: No training row fits into the context.
        DivergedError: The loss stopped being a number three times.
        OutOfMemoryError: Not even one row fits into memory.
    """
    training = Training(train_examples, validation_examples, recipe, init_ids)
    for _, event in train_together(base, [training], controls=[control or Control()], resume=[resume]):
        if isinstance(event, Failed):
            raise event.error
        yield event


def train_together(
    base: LoadedBase,
    trainings: Sequence[Training],
    *,
    controls: Sequence[Control] | None = None,
    resume: Sequence[TrainingState | None] | None = None,
) -> Iterator[tuple[int, Event]]:
    """Trains several prefixes in one pass over one frozen base, each as if it were alone.

    Args:
        base: The frozen base.
        trainings: They may differ in everything: rows, method, length, rate, seed, steps.
        controls: Wishes for each training.
        resume: State of each training to go on from.

    Yields:
        The index of a training and its event; each begins with `Started` and ends with `Finished` or `Failed`, whenever
        it is done, unless it was asked to leave. A training that fails leaves the others alone.

    Raises:
        OutOfMemoryError: Not even one row fits into memory.
    """
    controls = controls or [Control() for _ in trainings]
    states = resume or [None] * len(trainings)
    updater = Updater(base)
    courses = {
        index: _course(updater, training, control, state)
        for index, (training, control, state) in enumerate(zip(trainings, controls, states, strict=True))
    }
    results: dict[int, PassResult] = {}
    while courses:
        requests: dict[int, list[Share]] = {}
        for index, course in list(courses.items()):
            if controls[index].leave_requested:
                del courses[index]
                continue
            shares = yield from _events_until_pass(index, course, controls[index], results.get(index))
            if shares is None:
                del courses[index]
            else:
                requests[index] = shares
        results = _one_pass(updater, requests)


@dataclass(frozen=True)
class PassResult:
    """What a pass gave to one training: the mean loss of each of its shares, and the seconds that the pass took."""

    losses: list[float]
    seconds: float


Course = Generator[Event | list[Share], PassResult | None, None]
"""The life of one training: it gives events, and shares where it waits for the pass that computes their gradients."""


def _course(updater: Updater, training: Training, control: Control, state: TrainingState | None) -> Course:
    run = Run(updater, training)
    if state is not None:
        run.resume(state)
    yield run.started()
    if state is None:
        yield from run.look()
    while (reason := _reason_to_end(run, control)) is None:
        step, shares = run.step, run.shares()
        result = yield shares
        assert result is not None
        yield from run.advance(shares, result.losses, result.seconds)
        if run.step < step + 1:  # it went back
            continue
        is_due = run.is_due
        if is_due:
            yield from run.look()
        if is_due or control.checkpoint_requested:
            control.checkpoint_requested = False
            yield Checkpointed(run.step, run.keep())
    yield from run.settle()
    yield run.finished(reason)


def _reason_to_end(run: Run, control: Control) -> StopReason | None:
    if run.step >= run.max_steps:
        return "max_steps"
    if control.stop_requested:
        return "requested"
    # While rates are compared, one that has passed its best may still win by it.
    is_stuck = not run.is_comparing and run.slots[0].bad_evaluations >= PATIENCE
    return "no_improvement" if is_stuck else None


def _events_until_pass(
    index: int, course: Course, control: Control, result: PassResult | None
) -> Generator[tuple[int, Event], None, list[Share] | None]:
    """Passes on the events of a training until it waits for a pass; None once it has ended or left."""
    try:
        item = next(course) if result is None else course.send(result)
        while not isinstance(item, list):
            yield index, item
            if control.leave_requested:
                return None
            item = next(course)
        return item
    except StopIteration:
        return None
    except EngineError as error:
        yield index, Failed(error)
        return None


def _one_pass(updater: Updater, requests: Mapping[int, list[Share]]) -> dict[int, PassResult]:
    """Computes the shares of all trainings together."""
    if not requests:
        return {}
    began = time.perf_counter()
    losses = iter(updater.accumulate([share for shares in requests.values() for share in shares]))
    taken = {index: [next(losses) for _ in shares] for index, shares in requests.items()}
    seconds = time.perf_counter() - began
    return {index: PassResult(part, seconds) for index, part in taken.items()}
