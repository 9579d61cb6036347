"""Checkpoints of a job: written whole, written down, read back from the latest that is sound."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.checkpoints import add_checkpoint, drop_checkpoints, left_behind, list_checkpoints
from storage.database import Database
from storage.disk import DiskFullError, refusing_full_disk
from storage.errors import BusyError, ConflictError
from storage.lease import Lease
from storage.schema.job import Job
from worker.engine.base import LoadedBase
from worker.engine.checkpoint import (
    DamagedCheckpointError,
    TrainingState,
    read_checkpoint,
    write_checkpoint,
)
from worker.engine.progress import Progress
from worker.engine.training import Training, fitting_rows
from worker.engine.whole_file import UNFINISHED

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one attempt, and those of the attempts before it.

    Args:
        database: The open database.
        store: Holds the folders of the runs.
        lease: The attempt.

    Attributes:
        passed_over: Why later checkpoints were not taken, one sentence each, once `latest` has looked.
    """

    def __init__(self, database: Database, store: ArtifactStore, lease: Lease) -> None:
        self._database = database
        self._store = store
        self._lease = lease
        self.passed_over: list[str] = []

    def write(self, state: TrainingState, base_fingerprint: str) -> int:
        """Writes a state and returns its size in bytes; where that fails, the checkpoint before it is untouched.

        Args:
            state: Where the training stands.
            base_fingerprint: Of the base model's weights that it learns on.

        Raises:
            BusyError: The database was busy for too long.
            DiskFullError: There is no room.
            LeaseLostError: Another attempt owns the job.
        """
        step = state.progress.step
        path = self._store.run_folder(self._lease.job_id, self._lease.attempt) / f"checkpoint-{step:08d}.safetensors"
        with refusing_full_disk("writing a checkpoint"):
            write_checkpoint(path, _marked(state, base_fingerprint))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
        try:
            with self._database.write() as session:
                add_checkpoint(session, self._lease, step=step, path=path, sha256=sha256, size_bytes=size_bytes)
                surplus = drop_checkpoints(session, self._store, self._lease.job_id)
        except (BusyError, DiskFullError):
            # Without a row nobody finds it, and it would count among the files that are kept.
            path.unlink(missing_ok=True)
            raise
        for old in surplus:
            old.unlink(missing_ok=True)
        return size_bytes

    def latest(self, base_fingerprint: str) -> TrainingState | None:
        """The latest state of any attempt that can be read; None where the training starts from its beginning.

        Args:
            base_fingerprint: Of the base model's weights as they are now.

        Raises:
            ConflictError: The state was learned on other weights.
        """
        self._delete_unfinished()
        with self._database.read() as session:
            paths = [Path(row.path) for row in list_checkpoints(session, self._lease.job_id)]
        for path in paths:
            if not path.is_file():
                continue
            try:
                state = read_checkpoint(path)
            except DamagedCheckpointError as error:
                self.passed_over.append(error.message)
                continue
            _refuse_other_base(state.progress.base_fingerprint, base_fingerprint)
            return state
        return None

    def clear(self, keep: int) -> None:
        """Deletes what a job that succeeded or was discarded needs no more, all but its logs.

        Args:
            keep: How many checkpoints stay where it succeeded.
        """
        try:
            with self._database.write() as session:
                job = session.get(Job, self._lease.job_id)
                surplus = left_behind(session, self._store, job, keep) if job else []
        except (BusyError, DiskFullError) as error:
            logger.warning("the checkpoints are left to the next sweep: %s", error.message)
            return
        for path in surplus:
            path.unlink(missing_ok=True)

    def _delete_unfinished(self) -> None:
        """Deletes what attempts that were killed had begun to write; nobody else would find it."""
        for folder in self._store.run_folders(self._lease.job_id):
            for path in folder.glob(f".*{UNFINISHED}"):
                path.unlink(missing_ok=True)


def unlike(progress: Progress, base: LoadedBase, training: Training) -> str | None:
    """How a state differs from the training that would go on from it, to follow a colon; None where it does not.

    Settings differ where a newer version of the app chooses them otherwise, or knows more of them.

    Raises:
        ContextOverflowError: No training row fits into the context.
    """
    before, now = dict(progress.recipe), training.recipe.to_dict()
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        return f"it was made with other settings ({', '.join(changed)})"
    num_train = len(fitting_rows(base, training).train)
    if progress.num_train != num_train:
        return f"it was made of {progress.num_train:,} training rows, and {num_train:,} fit into the context now"
    return None


def _marked(state: TrainingState, base_fingerprint: str) -> TrainingState:
    return replace(state, progress=replace(state.progress, base_fingerprint=base_fingerprint))


def _refuse_other_base(before: str, now: str) -> None:
    """A prefix that learned on two bases fits neither, and its losses would be compared across them."""
    if before != now:
        raise ConflictError(
            f"The base model's weights have changed since this training began ({before[:16]} → {now[:16]}). "
            "Put the old ones back, or run a copy."
        )
