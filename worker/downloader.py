"""Runs the downloads of base models that users asked for, one child process at a time."""

import logging
import subprocess
import sys
from collections.abc import Sequence

from storage.base_models import get_base_model_by_id, list_base_models
from storage.children import spawn, stop
from storage.database import Database
from storage.downloads import end_download, next_download, restart_downloads
from storage.errors import NotFoundError
from storage.schema.base_model import DownloadState

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "storage.bases.download")
STOP_TIMEOUT_S = 5.0
DIED = "The download broke off without saying why. Ask for it again; what is here already is kept."


class Downloader:
    """Starts a child for the download that waits longest, and cleans up after one that died.

    Args:
        database: The open database.
        command: What fetches; the id of the base model follows.
    """

    def __init__(self, database: Database, command: Sequence[str] = COMMAND) -> None:
        self._database = database
        self._command = list(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._base_model_id: str | None = None
        self._has_restarted = False

    def tick(self) -> None:
        """One look: is the child done, and does another download wait?"""
        if not self._has_restarted:
            with self._database.write() as session:
                restart_downloads(session)
            self._has_restarted = True
        if self._child is not None:
            if self._child.poll() is None:
                return
            self._account_for(self._child.returncode)
        self._start_next()

    def stop(self) -> None:
        """Ends the download; it goes on when the dispatcher starts again."""
        if self._child is not None:
            stop([self._child], timeout_s=STOP_TIMEOUT_S)
            self._child = None

    def _start_next(self) -> None:
        # Looking first spares the lock that every writer takes.
        with self._database.read() as session:
            if all(model.download_state != DownloadState.REQUESTED for model in list_base_models(session)):
                return
        with self._database.write() as session:
            base_model = next_download(session)
            if base_model is None:
                return
            self._base_model_id = base_model.id
        self._child = spawn([*self._command, self._base_model_id])

    def _account_for(self, exit_code: int) -> None:
        base_model_id, self._child, self._base_model_id = self._base_model_id, None, None
        assert base_model_id is not None
        with self._database.write() as session:
            try:
                base_model = get_base_model_by_id(session, base_model_id)
            except NotFoundError:
                return
            if base_model.download_state == DownloadState.DOWNLOADING:
                logger.warning("the download of %s died (code %d)", base_model.name, exit_code)
                end_download(session, base_model_id, error=DIED)
