"""Drives a real database beside the plain model of the queue; the rules themselves stand in `test_queue_rules.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from storage.database import open_database
from storage.errors import ConflictError, NotFoundError
from storage.lease import Lease, LeaseLostError
from storage.lease_watch import LeaseWatch
from storage.schema.job import JobStatus
from storage.settings import read_settings
from tests.queue_model import ModelQueue
from tests.stored import PREFIX_FIELDS

LEASE_S = 4.0
FAST = Path("/dev/shm")

ENDS: dict[str, Callable[[Lease, Any], object]] = {
    "succeeded": lambda lease, session: lease.succeed(session, PREFIX_FIELDS),
    "failed": lambda lease, session: lease.fail(session, {"code": "diverged", "message": "No."}),
    "cancelled": lambda lease, session: lease.cancel(session),
    "queued": lambda lease, session: lease.release(session),
    "paused": lambda lease, session: lease.release(session, paused=True),
}


class QueueDriver(RuleBasedStateMachine):
    """A database in a folder of its own, the model of it, and every lease there ever was."""

    def __init__(self, migrated: Path) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(dir=FAST if FAST.is_dir() else None)
        shutil.copy(migrated, Path(self.folder.name) / "studio.db")
        self.database = open_database(read_settings({"PREFIX_STUDIO_HOME": self.folder.name}))
        self.model = ModelQueue()
        self.leases: list[Lease] = []
        self.seconds = 0.0
        self.watch = LeaseWatch(LEASE_S, lambda: self.seconds)

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def a_job(self, data: st.DataObject, *statuses: JobStatus) -> str:
        fitting = [job_id for job_id, job in self.model.jobs.items() if not statuses or job.status in statuses]
        return data.draw(st.sampled_from(fitting or list(self.model.jobs)))

    def a_lease(self, data: st.DataObject) -> tuple[Lease, bool]:
        """Any attempt there ever was, by preference one whose job runs: in it, or taken over by another attempt."""
        live = [lease for lease in self.leases if self.model.is_live(lease.job_id, lease.attempt)]
        overtaken = [lease for lease in self.leases if lease not in live and lease.job_id in {x.job_id for x in live}]
        lease = data.draw(st.one_of([st.sampled_from(group) for group in (live, overtaken, self.leases) if group]))
        return lease, lease in live

    def write_as(self, lease: Lease, is_live: bool, write: Callable[[Any], object]) -> None:
        """A live attempt writes; one that ended is refused, and the invariants see that nothing changed."""
        if is_live:
            with self.database.write() as session:
                write(session)
            return
        # A job that was deleted is not there to be owned.
        refused = pytest.raises((LeaseLostError, NotFoundError), match=r"no longer owns it|There is no job")
        with refused, self.database.write() as session:
            write(session)

    def as_user(self, is_allowed: bool, write: Callable[[Any], object]) -> None:
        if is_allowed:
            with self.database.write() as session:
                write(session)
            return
        with pytest.raises(ConflictError, match=r"\w"), self.database.write() as session:
            write(session)
