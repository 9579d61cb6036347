"""Checkpoints of jobs: which folders are whole, and may be resumed from."""

from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.artifacts import ArtifactStore
from storage.lease import Lease, Progress
from storage.schema.job import Checkpoint, Job, JobStatus

KEPT = 2
"""Of a job that may go on: the latest checkpoint, and the one before it should a byte of the latest turn."""

WORK_PATTERNS = ("*.safetensors*", "*answer*")
"""What attempts write to go on from or to publish, half-written files included; logs and locks are none of it."""


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


def drop_checkpoints(session: Session, store: ArtifactStore, job_id: str, keep: int = KEPT) -> list[Path]:
    """Forgets all but the latest checkpoints of a job.

    Args:
        session: A writing session.
        store: Holds the run folders.
        job_id: The job; nobody but the caller writes checkpoints of it now.
        keep: How many stay.

    Returns:
        Every other file of its work, for the caller to delete once the session has committed.
    """
    rows = list_checkpoints(session, job_id)
    kept = [row for row in rows if Path(row.path).is_file()][:keep]
    session.execute(
        delete(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.id.not_in([row.id for row in kept]))
    )
    paths = {Path(row.path) for row in kept}
    return [path for path in work_files(store, job_id) if path not in paths]


def left_behind(session: Session, store: ArtifactStore, job: Job, keep: int) -> list[Path]:
    """What a trainer that was killed at its end has left of a job that will not go on from it.

    Args:
        session: A writing session; while it holds the lock, nobody can start the job again.
        store: Holds the run folders.
        job: In any state.
        keep: Checkpoints that stay of a job that succeeded.
    """
    if job.status not in (JobStatus.SUCCEEDED, JobStatus.CANCELLED) or not work_files(store, job.id):
        return []
    return drop_checkpoints(session, store, job.id, keep if job.status == JobStatus.SUCCEEDED else 0)


def work_files(store: ArtifactStore, job_id: str) -> list[Path]:
    """Checkpoints and the like of every attempt of a job, half-written ones too; its logs and locks are none of it."""
    folders = store.run_folders(job_id)
    return [path for folder in folders for pattern in WORK_PATTERNS for path in sorted(folder.glob(pattern))]
