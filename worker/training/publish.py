"""Publication: the prefix becomes a file that is kept, then a row, and the job has succeeded; all or nothing."""

import logging
import time
from typing import Any

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.disk import refusing_full_disk
from storage.errors import BusyError
from storage.queue import Lease
from worker.engine.events import Finished
from worker.engine.prefix_file import TENSORS_NAME, write_prefix_file
from worker.training.inputs import Inputs, Task

logger = logging.getLogger(__name__)

ATTEMPTS = 12
PAUSE_S = 2.0


def publish(
    database: Database,
    store: ArtifactStore,
    lease: Lease,
    task: Task,
    inputs: Inputs,
    finished: Finished,
    metrics: dict[str, Any],
    samples: list[dict[str, str]],
) -> str:
    """Keeps the prefix and ends the job.

    The file comes first: a crash in between leaves a file without a row, which the next sweep deletes, and the job goes
    on from its checkpoint to publish the same bytes again.

    Args:
        database: The open database.
        store: Keeps the file.
        lease: The attempt; if it has ended, nothing is published.
        task: The job and its base model.
        inputs: The settings as they were used.
        finished: Holds the prefix.
        metrics: Figures of the training.
        samples: Held-out prompts with their answers.

    Returns:
        Id of the prefix.

    Raises:
        DiskFullError: There is no room for the file.
        LeaseLostError: Another attempt owns the job.
    """
    path = store.run_folder(lease.job_id, lease.attempt) / TENSORS_NAME
    with refusing_full_disk("writing the prefix"):
        write_prefix_file(path, finished.prefix)
    fields = {
        "base_revision": task.base_model.revision,
        "base_fingerprint": task.base_model.fingerprint,
        "num_virtual_tokens": finished.prefix.num_virtual_tokens,
        "num_parameters": int(finished.prefix.values.size),
        "size_bytes": path.stat().st_size,
        "rendering": inputs.rendering.to_dict(),
        "recipe": inputs.recipe.to_dict(),
        "metrics": metrics,
        "samples": samples,
        "artifact_hash": store.put_file(path),
    }
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with database.write() as session:
                return lease.succeed(session, fields, stopped_early=finished.stopped_early).id
        except BusyError:
            if attempt == ATTEMPTS:
                raise
            logger.warning("the database is busy; publishing again in %.0f s", PAUSE_S)
            time.sleep(PAUSE_S)
    raise AssertionError("the loop returns or raises")
