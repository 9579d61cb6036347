"""Checkpoints of jobs: which folders are whole, and may be resumed from."""

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.queue import Lease, Progress
from storage.schema.job import Checkpoint


def add_checkpoint(session: Session, lease: Lease, *, step: int, path: Path, sha256: str, size_bytes: int) -> None:
    """Writes down a checkpoint that is complete on the disk.

    Args:
        session: A writing session.
        lease: The attempt that wrote it.
        step: Updates that had been done.
        path: Its file or folder.
        sha256: Hash of its bytes, checked before it is resumed from.
        size_bytes: Bytes on disk.

    Raises:
        LeaseLostError: The attempt has ended.
    """
    lease.record(session, [], Progress(step=step))
    session.add(
        Checkpoint(
            job_id=lease.job_id, attempt=lease.attempt, step=step, path=str(path), sha256=sha256, size_bytes=size_bytes
        )
    )
    session.flush()


def list_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """The checkpoints of a job, the latest first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc())))
