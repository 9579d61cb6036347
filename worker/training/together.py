"""Several trainings over one base in one pass, each with its own lease, wishes, checkpoints and end."""

import logging
from collections.abc import Sequence
from functools import partial

from worker.engine.train import train_together
from worker.training.bases import Bases
from worker.training.mandate import Outcome
from worker.training.tenure import Tenure

logger = logging.getLogger(__name__)


def run_together(tenures: Sequence[Tenure]) -> None:
    """Prepares attempts and trains those that came to the same base in one pass; a single one is a pass of one.

    Args:
        tenures: Attempts of training jobs; each is over afterwards.
    """
    bases = Bases()
    for tenure in tenures:
        tenure.beside = partial(_let_unwanted_go, [other for other in tenures if other is not tenure])
        tenure.go_on(partial(tenure.attempt.prepare, bases))
    # They differ only where a base's weights were replaced while its jobs were being prepared.
    by_base: dict[int, list[Tenure]] = {}
    for tenure in _those_left(tenures):
        by_base.setdefault(id(tenure.attempt.base), []).append(tenure)
    for group in by_base.values():
        _train(group)


def _train(group: Sequence[Tenure]) -> None:
    """A pass of all, and where that breaks off, one for each that is left: whose fault it was shows there."""
    if len(group) == 1:
        group[0].go_on(partial(_pass, group))
        return
    for tenure in group:
        tenure.attempt.share(len(group))
    try:
        _pass(group)
    except Exception as error:
        logger.exception("the pass of %d jobs broke off", len(group))
        for tenure in _those_left(group):
            tenure.recorder.log(
                f"The pass with other jobs broke off ({type(error).__name__}), so this job goes on by itself.",
                level="warning",
            )
            _train([tenure])


def _pass(group: Sequence[Tenure]) -> Outcome | None:
    """Hands every training its events until all have ended.

    Raises:
        Exception: Something that is no single training's, or not known to be.
    """
    states = [tenure.attempt.begin() for tenure in group]
    attempts = [tenure.attempt for tenure in group]
    controls = [attempt.control for attempt in attempts]
    trainings = [attempt.training for attempt in attempts]
    for index, event in train_together(attempts[0].base, trainings, controls=controls, resume=states):
        tenure = group[index]
        if not tenure.is_over:
            tenure.go_on(partial(tenure.attempt.hear, event))
        controls[index].leave_requested = tenure.is_over
    return None


def _let_unwanted_go(tenures: Sequence[Tenure]) -> None:
    """Ends what its user has discarded at once, even while another job of the process answers held-out rows."""
    for tenure in _those_left(tenures):
        if tenure.is_unwanted():
            tenure.go_on(lambda: Outcome.DISCARDED)


def _those_left(tenures: Sequence[Tenure]) -> list[Tenure]:
    return [tenure for tenure in tenures if not tenure.is_over]
