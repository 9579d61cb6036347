"""Table of the prefixes that a training had at its evaluations."""

from datetime import datetime

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict, now


class Snapshot(Base):
    """The prefix of one evaluation of a job, with what it takes to answer with it before anything is published.

    `job_id` refers to a job, or to the prefix that is left of a deleted one, so it is no foreign key.
    `validation_loss` is that of this prefix, None where there are no validation rows.
    """

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    step: Mapped[int]
    validation_loss: Mapped[float | None]
    artifact_hash: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int]
    num_virtual_tokens: Mapped[int]
    base_fingerprint: Mapped[str] = mapped_column(String(64))
    rendering: Mapped[JsonDict]
    created_at: Mapped[datetime] = mapped_column(default=now)
