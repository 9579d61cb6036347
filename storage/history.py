"""What a page shows of the past of a job, read without reading all of it: the last lines and a curve's points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from storage.schema.base import JsonDict
from storage.schema.job import Job, JobEvent
from storage.settings import OWNER

MAX_STEP_POINTS = 1000
"""More than a chart has pixels to tell apart."""

BEGINS_ANEW = "begins_anew"
"""In the data of the `state` event that puts a job back into the queue with nothing to resume from."""


@dataclass
class LossHistory:
    """One account of a training, whichever attempts it took.

    Attributes:
        train: Loss of the training rows at a step, counted from 1.
        validation: Loss of the validation rows after a step; 0 is before the first.
    """

    train: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)

    def add(self, kind: str, step: int, loss: float) -> None:
        """Adds a `step` or an `evaluated` event; one at an earlier step than the last takes the account back to it."""
        # An update at a step repeats that step; an evaluation after a step leaves it standing.
        self._keep_before(step if kind == "step" else step + 1)
        (self.train if kind == "step" else self.validation)[step] = loss

    def _keep_before(self, end: int) -> None:
        # Steps were added in order, so the last key is the furthest.
        for losses in (self.train, self.validation):
            while losses and next(reversed(losses)) >= end:
                losses.popitem()


def recent_events(session: Session, job_id: str, kinds: Sequence[str], limit: int) -> list[JobEvent]:
    """The latest events of some kinds, in the order in which they happened.

    Args:
        session: Any session.
        job_id: The job.
        kinds: Kinds of `JobEvent`.
        limit: The most events to give.
    """
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind.in_(kinds))
    return list(session.scalars(query.order_by(JobEvent.id.desc()).limit(limit)))[::-1]


def ended_since(session: Session, moment: datetime, limit: int) -> list[Job]:
    """The latest jobs that ended after a moment, the earliest of them first."""
    query = select(Job).where(Job.owner == OWNER, Job.finished_at > moment).order_by(Job.finished_at.desc())
    return list(session.scalars(query.limit(limit)))[::-1]


def answers_by_step(session: Session, job_id: str) -> dict[int, list[JsonDict]]:
    """The sample answers of a training after each look at them, in the order of the steps.

    Args:
        session: Any session.
        job_id: The job.

    Returns:
        Rows of `prompt`, `expected`, `base` and `prefix` by the step whose prefix answered; where a later attempt did
        steps again, its answers.
    """
    events = select(JobEvent.step, JobEvent.data).where(
        JobEvent.job_id == job_id,
        JobEvent.kind == "samples",
        JobEvent.step.is_not(None),
        JobEvent.attempt >= _first_attempt(session, job_id),
    )
    told = {step: data["rows"] for step, data in session.execute(events.order_by(JobEvent.id)) if data.get("rows")}
    return dict(sorted((step, rows) for step, rows in told.items() if step is not None))


def loss_history(session: Session, job_id: str, max_points: int = MAX_STEP_POINTS) -> LossHistory:
    """The losses of a job as one training: what a later attempt did again, or began anew, counts once.

    Args:
        session: Any session.
        job_id: The job.
        max_points: About how many steps to give; of a longer training evenly spaced ones with the first and the last.
    """
    of_training = (JobEvent.job_id == job_id, JobEvent.attempt >= _first_attempt(session, job_id))
    edges = session.execute(
        select(func.min(JobEvent.id), func.max(JobEvent.id), func.max(JobEvent.step))
        .where(*of_training, JobEvent.kind == "step")
        .group_by(JobEvent.attempt)
    ).all()
    stride = max(1, ceil(max((edge[2] or 0 for edge in edges), default=0) / max_points))
    # The first step of an attempt tells where it went on, so it is never thinned out.
    kept_ids = [edge[place] for edge in edges for place in (0, 1)]
    shown = or_(JobEvent.step % stride == 0, JobEvent.id.in_(kept_ids))
    points = (
        select(JobEvent.kind, JobEvent.step, JobEvent.data)
        .where(*of_training, or_(JobEvent.kind == "evaluated", and_(JobEvent.kind == "step", shown)))
        .order_by(JobEvent.id)
    )
    history = LossHistory()
    for kind, step, data in session.execute(points):
        loss = data.get("loss")
        if step is not None and isinstance(loss, int | float):
            history.add(kind, step, loss)
    return history


def _first_attempt(session: Session, job_id: str) -> int:
    """The latest attempt that began at the beginning: only what came since then is of the same training."""
    # A training evaluates before its first step only where it does not resume.
    at_beginning = or_(
        and_(JobEvent.kind == "step", JobEvent.step == 1), and_(JobEvent.kind == "evaluated", JobEvent.step == 0)
    )
    began = session.scalar(select(func.max(JobEvent.attempt)).where(JobEvent.job_id == job_id, at_beginning)) or 0
    states = select(JobEvent.attempt, JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.kind == "state")
    return max([began, *(attempt + 1 for attempt, data in session.execute(states) if data.get(BEGINS_ANEW))])
