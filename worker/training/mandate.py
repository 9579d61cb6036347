"""What one attempt is given to work with, whatever the kind of its job, and how it may end."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.lease import Lease
from storage.settings import Settings
from worker.training.recorder import Recorder


class Outcome(enum.Enum):
    """How an attempt ends, and what its user or the machine may wish for between two steps."""

    PUBLISHED = enum.auto()  # the result is kept; as a wish: end now
    DISCARDED = enum.auto()  # nothing is kept
    PAUSED = enum.auto()  # a checkpoint is kept, the job waits to be resumed
    RELEASED = enum.auto()  # a checkpoint is kept, the job goes back to the queue


@dataclass(frozen=True)
class Mandate:
    """What one attempt is given.

    Attributes:
        settings: Where the caches lie, and how often to write a checkpoint.
        database: The open database.
        store: Keeps checkpoints, logs and results.
        recorder: Writes progress; it holds the attempt's right to write.
        wish: Asked between steps or tokens; None lets the attempt go on.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    recorder: Recorder
    wish: Callable[[], Outcome | None]

    @property
    def lease(self) -> Lease:
        """The attempt's right to write."""
        return self.recorder.lease
