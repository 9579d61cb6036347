"""What a trainer works with, whatever its jobs are."""

import threading
from dataclasses import dataclass

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.settings import Settings


@dataclass(frozen=True)
class Workplace:
    """What a trainer works with.

    Attributes:
        settings: What the process was told from outside.
        database: The open database.
        store: Keeps checkpoints, logs and prefixes.
        terminated: Set once the process is asked to end.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    terminated: threading.Event
