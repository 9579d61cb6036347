"""Publication: the prefix becomes a file that is kept, then a row, and the job has succeeded; all or nothing."""

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.disk import refusing_full_disk
from storage.errors import BusyError
from storage.snapshots import NewSnapshot, keep_exact
from worker.engine.events import Finished
from worker.engine.prefix_file import TENSORS_NAME, write_prefix_file
from worker.engine.recipe import Recipe
from worker.training.inputs import Inputs, Task
from worker.training.recorder import Recorder

logger = logging.getLogger(__name__)

ATTEMPTS = 12
PAUSE_S = 2.0


@dataclass(frozen=True)
class Publication:
    """What is to be kept.

    Attributes:
        task: The job and its base model.
        inputs: The settings as they were used.
        finished: Holds the prefix.
        metrics: Figures of the training.
        samples: Held-out prompts with their answers.
    """

    task: Task
    inputs: Inputs
    finished: Finished
    metrics: dict[str, Any]
    samples: list[dict[str, str]]

    def columns(self, size_bytes: int, artifact_hash: str) -> dict[str, Any]:
        """The prefix as a row, beside what its job knows."""
        return {
            "base_revision": self.task.base_model.revision,
            "base_fingerprint": self.task.fingerprint,
            "num_virtual_tokens": self.finished.prefix.num_virtual_tokens,
            "num_parameters": int(self.finished.prefix.values.size),
            "size_bytes": size_bytes,
            "rendering": self.inputs.rendering.to_dict(),
            "recipe": self._recipe().to_dict(),
            "metrics": self.metrics,
            "samples": self.samples,
            "artifact_hash": artifact_hash,
        }

    def snapshot(self, size_bytes: int, artifact_hash: str) -> NewSnapshot:
        """The prefix as the state of its training that it is."""
        return NewSnapshot(
            step=self.finished.best_step,
            validation_loss=self.finished.validation_loss_after,
            artifact_hash=artifact_hash,
            size_bytes=size_bytes,
            num_virtual_tokens=self.finished.prefix.num_virtual_tokens,
            base_fingerprint=self.task.fingerprint,
            rendering=self.inputs.rendering.to_dict(),
        )

    def _recipe(self) -> Recipe:
        """The settings that give this prefix again: with the learning rate that won, and nothing left to compare."""
        return replace(self.inputs.recipe, learning_rate=self.finished.learning_rate, sweep=(), sweep_steps=None)


def publish(database: Database, store: ArtifactStore, recorder: Recorder, publication: Publication) -> str:
    """Keeps the prefix and ends the job, with all that its training has told so far.

    The file comes first: a crash in between leaves a file without a row, which the next sweep deletes, and the job goes
    on from its checkpoint to publish the same bytes again.

    Args:
        database: The open database.
        store: Keeps the file.
        recorder: Of the attempt; if it has ended, nothing is published.
        publication: The prefix and what is known of it.

    Returns:
        Id of the prefix.

    Raises:
        DiskFullError: There is no room for the file.
        LeaseLostError: Another attempt owns the job.
    """
    lease = recorder.lease
    path = store.run_folder(lease.job_id, lease.attempt) / TENSORS_NAME
    with refusing_full_disk("writing the prefix"):
        write_prefix_file(path, publication.finished.prefix)
    size_bytes, sha256 = path.stat().st_size, store.put_file(path)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with database.write() as session:
                    recorder.write(session)
                    keep_exact(session, lease, publication.snapshot(size_bytes, sha256))
                    # That took the lock that sweeps hold too: what is here from now on has its row in time.
                    if not store.exists(sha256):
                        store.put_file(path)
                    fields = publication.columns(size_bytes, sha256)
                    return lease.succeed(session, fields, stopped_early=publication.finished.stopped_early).id
            except BusyError:
                if attempt == ATTEMPTS:
                    raise
                logger.warning("the database is busy; publishing again in %.0f s", PAUSE_S)
                time.sleep(PAUSE_S)
    finally:
        path.unlink(missing_ok=True)
    raise AssertionError("the loop returns or raises")
