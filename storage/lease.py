"""A lease: the right of one attempt to write to its job, fenced in every write; what an attempt may write with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.orm import Session

from storage.errors import StudioError
from storage.jobs import get_job
from storage.prefixes import create_prefix, free_name
from storage.schema.base import now
from storage.schema.job import Job, JobEvent, JobKind, JobStatus, StopRequest
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot

MAX_LOST_ATTEMPTS = 3
"""A job whose process dies this often is set aside, so that the queue goes on."""


class LeaseLostError(StudioError):
    """Another attempt owns the job, or it has ended."""

    code = "lease_lost"
    http_status = 409


class DiscardedError(StudioError):
    """The user has discarded the job in the meantime, so its result is not published."""

    code = "discarded"
    http_status = 409


@dataclass(frozen=True)
class NewEvent:
    """One thing that happened in an attempt.

    Attributes:
        kind: `step`, `evaluated`, `samples` or `log`.
        data: What it carries.
        step: The training step that it belongs to.
    """

    kind: str
    data: dict[str, Any]
    step: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far an attempt is; a field that is None is left as it was.

    Attributes:
        step: Updates done.
        max_steps: Updates to do.
        stage: What is being done, in words.
        metrics: The latest figures, merged into those that are there.
        eta_s: Seconds that are left.
    """

    step: int | None = None
    max_steps: int | None = None
    stage: str | None = None
    metrics: dict[str, Any] | None = None
    eta_s: float | None = None


@dataclass(frozen=True)
class Lease:
    """The right of one attempt to write to its job. It ends with the attempt; a write after that is refused.

    Args:
        job_id: The job.
        attempt: The attempt, which `claim_next` began.
    """

    job_id: str
    attempt: int

    def renew(self, session: Session) -> StopRequest | None:
        """Says that the process is alive, to those who watch (`storage.lease_watch`).

        Returns:
            What the user has asked for, where that is something.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        self._write(session, **_alive())
        return session.scalar(select(Job.stop_request).where(Job.id == self.job_id))

    def record(self, session: Session, events: Sequence[NewEvent], progress: Progress | None = None) -> None:
        """Appends what happened, and brings the job's progress up to date.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        values = {name: value for name, value in vars(progress or Progress()).items() if value is not None}
        if "metrics" in values:
            values["metrics"] = {**get_job(session, self.job_id).metrics, **values["metrics"]}
        self._write(session, **_alive(), **values)
        session.add_all(
            JobEvent(job_id=self.job_id, attempt=self.attempt, kind=event.kind, step=event.step, data=event.data)
            for event in events
        )
        session.flush()

    def succeed(self, session: Session, prefix_fields: dict[str, Any], *, stopped_early: bool = False) -> Prefix:
        """Publishes the prefix and ends the job, both or neither.

        Args:
            session: A writing session.
            prefix_fields: Columns of `Prefix`; those that the job knows may be left out. A `name` is a wish, by default
                the job's name, and is made free.
            stopped_early: Its user ended the training before its last step.

        Raises:
            LeaseLostError: The attempt has ended.
            DiscardedError: Its user has discarded the job; nothing was written.
        """
        job = get_job(session, self.job_id)
        self._succeed(session, stopped_early=stopped_early)
        fields = {
            "dataset_version_id": job.dataset_version_id,
            "base_model_id": job.base_model_id,
            "base_model": job.base_model,
            "method": job.method,
            "rendering": job.rendering,
            "recipe": job.recipe,
            "job_id": job.id,
            **prefix_fields,
        }
        prefix = create_prefix(session, free_name(session, fields.pop("name", job.name)), fields)
        session.execute(update(Job).where(Job.id == self.job_id).values(prefix_id=prefix.id))
        return prefix

    def finish(self, session: Session, *, metrics: dict[str, Any], stopped_early: bool = False) -> None:
        """Ends the job with success; what it made is its caller's to write in the same session.

        Args:
            session: A writing session.
            metrics: All figures of the job.
            stopped_early: Its user ended it before its last step.

        Raises:
            LeaseLostError: The attempt has ended.
            DiscardedError: Its user has discarded the job; nothing was written.
        """
        self._succeed(session, metrics=metrics, stopped_early=stopped_early)

    def fail(self, session: Session, error: dict[str, Any]) -> None:
        """Ends the job with an error.

        Args:
            session: A writing session.
            error: `code` and `message`, a sentence that a person can act on.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        self._end(session, JobStatus.FAILED, error=error)

    def cancel(self, session: Session) -> None:
        """Ends the job as its user asked: nothing is kept.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        self._end(session, JobStatus.CANCELLED)

    def release(self, session: Session, *, paused: bool = False) -> None:
        """Gives the job back unfinished: to the queue, where it keeps its place, or paused.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        self._leave(session, JobStatus.PAUSED if paused else JobStatus.QUEUED)

    def lose(self, session: Session, reason: str) -> JobStatus:
        """Takes the job from an attempt whose process died without ending it.

        Args:
            session: A writing session.
            reason: How it died, to follow "because".

        Returns:
            The job's new state: queued, failed after `MAX_LOST_ATTEMPTS`, or what its user had asked for meanwhile.

        Raises:
            LeaseLostError: The attempt has ended.
        """
        job = get_job(session, self.job_id)
        lost = job.lost_attempts + 1
        if job.stop_request == StopRequest.DISCARD:
            status = JobStatus.CANCELLED
            self._end(session, status, lost_attempts=lost)
        elif lost >= MAX_LOST_ATTEMPTS:
            status = JobStatus.FAILED
            self._end(session, status, lost_attempts=lost, error=_quarantined(job, lost, reason))
        else:
            status = JobStatus.PAUSED if job.stop_request == StopRequest.PAUSE else JobStatus.QUEUED
            self._leave(session, status, reason=reason, lost_attempts=lost)
        return status

    def _succeed(self, session: Session, **values: Any) -> None:
        """A user who was told that nothing is kept may rely on it, however late that was."""
        # The renewal takes the row, so that no wish comes between the look and the end.
        if self.renew(session) == StopRequest.DISCARD:
            raise DiscardedError(f"The job {self.job_id} was discarded by its user, so its result is not published.")
        self._end(session, JobStatus.SUCCEEDED, **values)

    def _end(self, session: Session, status: JobStatus, **values: Any) -> None:
        self._write(session, status=status, finished_at=now(), stop_request=None, **_FREE, **values)
        if status == JobStatus.CANCELLED:
            session.execute(delete(Snapshot).where(Snapshot.job_id == self.job_id))
        note_state(session, self, status, **{k: v for k, v in values.items() if k == "error"})

    def _leave(self, session: Session, status: JobStatus, *, reason: str | None = None, **values: Any) -> None:
        if status == JobStatus.PAUSED:
            values["stop_request"] = None
        self._write(session, status=status, stage="", **_FREE, **values)
        note_state(session, self, status, **({"reason": reason} if reason else {}))

    def _write(self, session: Session, **values: Any) -> None:
        fenced = update(Job).where(Job.id == self.job_id, Job.attempt == self.attempt, Job.status == JobStatus.RUNNING)
        written: Any = session.execute(fenced.values(**values))
        if written.rowcount == 0:
            raise LeaseLostError(
                f"Attempt {self.attempt} of the job {self.job_id} no longer owns it, so nothing was written. "
                "Another attempt has taken over, or the job has ended."
            )


def note_state(session: Session, lease: Lease, status: JobStatus, **data: Any) -> None:
    """Appends the event that says that an attempt brought its job into a state."""
    event = {
        "job_id": lease.job_id,
        "attempt": lease.attempt,
        "kind": "state",
        "data": {"status": status.value, **data},
    }
    session.execute(_ADD_EVENT, event)


_FREE: dict[str, Any] = {"lease_holder": None, "eta_s": None}


def _alive() -> dict[str, Any]:
    # The count is what others judge by; the moment is for people, since a clock may jump.
    return {"renewals": Job.renewals + 1, "heartbeat_at": now()}


# Built once: claims contend for one lock, and this is a part of each.
_ADD_EVENT = insert(cast(Table, JobEvent.__table__))


def _quarantined(job: Job, lost: int, reason: str) -> dict[str, Any]:
    is_training = job.kind == JobKind.TRAINING
    one, what = ("step", "training") if is_training else ("row", "answering")
    where = f"at {one} {job.step}" if job.step else f"before its first {one}"
    remedy = "retry it with a smaller batch or a shorter prefix" if is_training else "retry it, or send a shorter table"
    return {
        "code": "quarantined",
        "message": (
            f"The {what} broke off {lost} times, last in attempt {job.attempt} {where}, because {reason}. "
            f"Its log may say why; {remedy}."
        ),
    }
