"""Processes that read files: one for each upload; where that is asked for, one waits with its imports done."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # Buffers of megabytes come and go; handing each back to the system took a quarter of the time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
}


class ReaderProcess:
    """A process that reads one request and ends; see `storage.tables.child`."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "storage.tables.child"],
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def begin(self, request: Path) -> None:
        """Hands it the file with its request."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(os.fsencode(request) + b"\n")
            self.popen.stdin.close()
        except BrokenPipeError:
            pass  # it has died; whoever waits for it sees that

    def end(self) -> str:
        """Ends it, whatever it is doing; returns the last of what it wrote to stderr."""
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdin is not None and not self.popen.stdin.closed:
            self.popen.stdin.close()
        self._errors.seek(0)
        errors = self._errors.read()[-20_000:].decode("utf-8", errors="replace")
        self._errors.close()
        return errors


class ReaderProcesses:
    """Gives out processes that read.

    Args:
        keep_warm: Whether one is started ahead, so that an upload need not wait for its imports (a quarter second).
    """

    def __init__(self, *, keep_warm: bool = False) -> None:
        self._keep_warm = keep_warm
        self._spare: ReaderProcess | None = None
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Starts one ahead, if that is wanted and none waits; call it when nobody is waiting for something else."""
        with self._lock:
            if self._keep_warm and self._spare is None:
                self._spare = ReaderProcess()

    def take(self) -> ReaderProcess:
        """A process for one request: the one that waits, or a new one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and spare.popen.poll() is None:
            return spare
        if spare is not None:
            spare.end()
        return ReaderProcess()

    def close(self) -> None:
        """Ends the one that waits, and starts no other."""
        with self._lock:
            spare, self._spare, self._keep_warm = self._spare, None, False
        if spare is not None:
            spare.end()
