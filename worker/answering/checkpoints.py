"""The journals of a job: begun once an attempt, written down, taken over by the next attempt, deleted at the end."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactStore
from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.database import Database, Session
from storage.errors import BusyError, ConflictError
from storage.lease import Lease
from worker.answering.journal import Journal, read_header

logger = logging.getLogger(__name__)

NAME = "answers.journal"
ATTEMPTS = 12
PAUSE_S = 2.0


class AnswerCheckpoints:
    """The journals of one job.

    Args:
        database: The open database.
        store: Holds the folders of the runs.
        lease: The attempt.
    """

    def __init__(self, database: Database, store: ArtifactStore, lease: Lease) -> None:
        self._database = database
        self._store = store
        self._lease = lease

    def header(self, base_fingerprint: str) -> dict[str, Any] | None:
        """What earlier attempts agreed on; None where the job begins.

        Args:
            base_fingerprint: Of the base model's weights as they are now.

        Raises:
            ConflictError: The rows so far were answered on other weights.
        """
        for path in self._earlier():
            found = read_header(path)
            if found is None:
                continue
            before = str(found.get("base_fingerprint"))
            if before != base_fingerprint:
                raise ConflictError(
                    f"The base model's weights have changed since this job began ({before[:16]} → "
                    f"{base_fingerprint[:16]}). Put the old ones back, or run a copy."
                )
            return found
        return None

    def begin(self, header: dict[str, Any], num_rows: int) -> Journal:
        """The journal of this attempt, with all that earlier ones answered.

        Args:
            header: What all attempts have to agree on.
            num_rows: Rows of the table.

        Raises:
            BusyError: The database was busy for too long.
            DiskFullError: There is no room.
            LeaseLostError: Another attempt owns the job.
        """
        earlier = self._earlier()
        path = self._store.run_folder(self._lease.job_id, self._lease.attempt) / NAME
        journal = Journal(path, header, num_rows)
        for old in earlier:
            journal.take_over(old)
        journal.sync()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
        patiently(
            self._database,
            lambda session: add_checkpoint(
                session, self._lease, step=journal.num_answered, path=path, sha256=sha256, size_bytes=size_bytes
            ),
        )
        for old in earlier:
            old.unlink(missing_ok=True)
        return journal

    def delete_all(self) -> None:
        """Deletes every journal of the job."""
        for folder in self._store.run_folders(self._lease.job_id):
            (folder / NAME).unlink(missing_ok=True)

    def _earlier(self) -> list[Path]:
        """Journals that an attempt has written down and that are still there, the latest first."""
        with self._database.read() as session:
            paths = [Path(row.path) for row in list_checkpoints(session, self._lease.job_id)]
        return [path for path in paths if path.is_file()]


def patiently(database: Database, write: Callable[[Session], object]) -> None:
    """Writes in one transaction, again and again while the database is busy: hours of answers are not lost for it.

    Raises:
        BusyError: It was busy all the time.
        LeaseLostError: Another attempt owns the job.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with database.write() as session:
                write(session)
            return
        except BusyError:
            if attempt == ATTEMPTS:
                raise
            logger.warning("the database is busy; writing again in %.0f s", PAUSE_S)
            time.sleep(PAUSE_S)
