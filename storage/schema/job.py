"""Tables of the queue: jobs and everything that happened to them."""

import enum
from datetime import datetime

from sqlalchemy import Enum, Float, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict, Owned, now


class JobKind(enum.StrEnum):
    """What a job makes."""

    TRAINING = "training"  # a prefix
    ANSWERING = "answering"  # a table with a column of answers, see `storage.schema.answering`


class JobStatus(enum.StrEnum):
    """The states of a job."""

    QUEUED = "queued"  # waits for its turn, for the first time or again
    RUNNING = "running"  # one attempt holds its lease
    PAUSED = "paused"  # keeps its checkpoint and waits to be resumed
    SUCCEEDED = "succeeded"  # its prefix is published
    FAILED = "failed"  # ended with an error that a person can read
    CANCELLED = "cancelled"  # discarded by its user


ACTIVE_STATUSES = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
"""States from which a job may still train; what it needs is not deleted."""

ENDED_STATUSES = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
"""States in which a job stays until a person tries it again."""


class StopRequest(enum.StrEnum):
    """What a user asked of a running job; its trainer reads it between steps."""

    KEEP = "keep"  # end now, publish the best prefix so far
    DISCARD = "discard"  # end now, keep nothing
    PAUSE = "pause"  # checkpoint, free the device


class StartCondition(enum.StrEnum):
    """How another job has to end before one that waits for it may start."""

    ENDED = "ended"  # however it ends
    SUCCEEDED = "succeeded"  # its prefix is published
    FAILED = "failed"  # with an error; discarding it is none


class Job(Owned, Base):
    """A training, or another long piece of work, that was asked for. The database is the truth about it.

    `attempt` is the fencing token: every write of a trainer names the attempt that it runs, and changes nothing once
    another attempt has begun. `renewals` rises with each sign of life of an attempt. `lost_attempts` counts those
    whose process died, since a user last started the job. `starts_after` names the job whose end it waits for, until
    its first attempt begins (`storage.starts`).
    """

    __tablename__ = "jobs"
    # Its migration keeps priorities descending in it, the order of claiming, which alembic does not compare.
    __table_args__ = (Index("ix_jobs_status_priority_position", "status", "priority", "position"),)

    name: Mapped[str] = mapped_column(String(80))
    kind: Mapped[JobKind] = mapped_column(
        Enum(JobKind, native_enum=False, length=16), default=JobKind.TRAINING, server_default=JobKind.TRAINING.name
    )
    status: Mapped[JobStatus] = mapped_column(Enum(JobStatus, native_enum=False, length=16), default=JobStatus.QUEUED)
    priority: Mapped[int] = mapped_column(default=0)
    position: Mapped[float] = mapped_column(Float)
    starts_after: Mapped[str | None] = mapped_column(String(16), index=True)
    starts_when: Mapped[StartCondition | None] = mapped_column(Enum(StartCondition, native_enum=False, length=16))
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id", ondelete="RESTRICT"), index=True)
    base_model: Mapped[str] = mapped_column(String(200))
    method: Mapped[str] = mapped_column(String(40))
    recipe: Mapped[JsonDict]
    rendering: Mapped[JsonDict]

    attempt: Mapped[int] = mapped_column(default=0)
    lost_attempts: Mapped[int] = mapped_column(default=0)
    lease_holder: Mapped[str | None] = mapped_column(String(80))
    renewals: Mapped[int] = mapped_column(default=0, server_default="0")
    heartbeat_at: Mapped[datetime | None]
    stop_request: Mapped[StopRequest | None] = mapped_column(Enum(StopRequest, native_enum=False, length=16))

    step: Mapped[int] = mapped_column(default=0)
    max_steps: Mapped[int] = mapped_column(default=0)
    stage: Mapped[str] = mapped_column(String(120), default="")
    metrics: Mapped[JsonDict] = mapped_column(default=dict)
    eta_s: Mapped[float | None]
    stopped_early: Mapped[bool] = mapped_column(default=False)
    error: Mapped[JsonDict | None]
    prefix_id: Mapped[str | None] = mapped_column(String(16))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    """One thing that happened to a job, in order; the page and REST replay them after a reload.

    `kind` is `state`, `step`, `evaluated`, `samples` or `log`; `data` is what it carries.
    """

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_id", "job_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    step: Mapped[int | None]
    data: Mapped[JsonDict]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Checkpoint(Base):
    """A complete checkpoint of a job: the folder is whole before this row is written."""

    __tablename__ = "checkpoints"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    step: Mapped[int]
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=now)
