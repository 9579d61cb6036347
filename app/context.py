"""What every service of the app works with, handed over as its first argument."""

from dataclasses import dataclass, field

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.settings import Settings
from storage.tables.reader_process import ReaderProcesses


@dataclass(frozen=True)
class AppContext:
    """The open stores of one web process.

    Attributes:
        settings: What the process was told from outside.
        database: The open database.
        store: The content-addressed files.
        readers: Processes that read uploads.
    """

    settings: Settings
    database: Database
    store: ArtifactStore
    readers: ReaderProcesses = field(default_factory=ReaderProcesses)
