"""Memory of a running web role and of what it starts, while a file is uploaded to it, read and examined."""

import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.web_role import TOKEN, Web

LOOK_EVERY_S = 0.01
TIMEOUT_S = 900.0


def peak_memory_mb(path: Path, folder: Path) -> float:
    """Highest resident memory of the web role and all processes under it; prints what it was at rest.

    Args:
        path: The file to upload.
        folder: Where a home folder may be made.
    """
    with tempfile.TemporaryDirectory(dir=folder) as home:
        web = Web(Path(home))
        try:
            web.wait()
            watch = _Watch(psutil.Process(web.process.pid))
            at_rest = watch.now()
            began = time.monotonic()
            with watch, path.open("rb") as file:
                headers = {"Authorization": f"Bearer {TOKEN}"}
                answer = web.user.post(
                    "/api/v1/datasets", files={"file": (path.name, file)}, headers=headers, timeout=TIMEOUT_S
                )
            assert answer.status_code == 201, answer.text
            told = f"{path.name}: uploaded, read and examined in {time.monotonic() - began:.1f} s"
            print(f"{told}; web and reader {watch.peak / 1e6:,.0f} MB at their peak, {at_rest / 1e6:,.0f} MB at rest")
        finally:
            web.close()
    return watch.peak / 1e6


class _Watch:
    """Looks at a process and its children again and again, in a thread of its own."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak = 0

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def now(self) -> int:
        """Bytes in memory at this moment; pages that two processes share count twice."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.peak = max(self.peak, self.now())
