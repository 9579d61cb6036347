"""Garbage collection: files that nothing names any more go, and never one that something does."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import select

from storage.artifacts import ArtifactStore, FileIdentity, identity_of
from storage.checkpoints import left_behind
from storage.database import Database
from storage.references import unreferenced
from storage.schema.job import Job

SWEEP_AFTER_S = 3600.0
"""A file is stored before the row that names it is written; so long it may wait for its row."""

LOOKS_PER_WAIT = 4
"""The fewest looks in a row that must find a file unchanged and unnamed before it goes."""


class Sweeper:
    """Deletes files that have been unnamed for long, as far as this sweeper itself has watched.

    A file is stored first and named by a row afterwards, so one without a row may be young or left over. No time of day
    is asked: a file goes once looks over `after_s` of this process's own clock all found it unnamed and the same. One
    that is put anew meanwhile, with the same bytes, waits from the beginning. A process that starts anew starts over.

    Args:
        after_s: Seconds that a file must have been seen without a row.
        kept_checkpoints: Of each job that succeeded.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        after_s: float = SWEEP_AFTER_S,
        *,
        kept_checkpoints: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._after_s = after_s
        self._kept_checkpoints = kept_checkpoints
        self._clock = clock
        self._looked_at = clock()
        self._waits: dict[tuple[Path, FileIdentity], float] = {}

    def look(self, database: Database, store: ArtifactStore) -> int:
        """Looks once at everything, and deletes what has been seen without a row for long enough.

        It holds the writers' lock, so that no row can come to name a file while that is deleted.

        Returns:
            How many files and folders were deleted.

        Raises:
            BusyError: The database was in use for too long; nothing is forgotten, and the next look tries again.
        """
        # A job has its row before it has a folder: folders first, so that none of them belongs to a row not yet seen.
        runs = store.run_ids()
        with database.write() as session:
            blobs = [store.path(sha256) for sha256 in unreferenced(session, store)]
            due = self._watch([*blobs, *store.incoming()])
            deleted = [path for path, seen in due if store.delete_unchanged(path, seen)]
            jobs = {job.id: job for job in session.scalars(select(Job))}
            left = [path for job in jobs.values() for path in left_behind(session, store, job, self._kept_checkpoints)]
            for path in left:
                path.unlink(missing_ok=True)
        gone = [job_id for job_id in runs if job_id not in jobs]
        for job_id in gone:
            store.delete_run(job_id)
        return len(deleted) + len(left) + len(gone)

    def _watch(self, suspects: Iterable[Path]) -> list[tuple[Path, FileIdentity]]:
        """Adds the time since the last look to every file that was suspect then as it is now; returns those due."""
        moment = self._clock()
        # A process that was stopped for hours saw nothing meanwhile, and neither did the writers that stood with it.
        passed = min(moment - self._looked_at, self._after_s / LOOKS_PER_WAIT)
        self._looked_at = moment
        before, self._waits = self._waits, {}
        for path in suspects:
            identity = identity_of(path)
            if identity is not None:
                known = before.get((path, identity))
                self._waits[path, identity] = 0.0 if known is None else known + passed
        return [key for key, waited_s in self._waits.items() if waited_s >= self._after_s]
