"""Counts what a download has fetched, and ends it once its user cancels."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

REPORT_EVERY_S = 0.5


class DownloadCancelled(Exception):
    """The user asked to stop."""


class Meter:
    """Counts bytes as they come and tells the database now and then.

    Args:
        report: Takes the bytes so far and says whether the user has cancelled.
    """

    def __init__(self, report: Callable[[int], bool]) -> None:
        self._report = report
        self._finished = 0
        self._current = 0
        self._reported_at = 0.0

    def add(self, num_bytes: int) -> None:
        """Bytes of the current file came, or have to come again where the number is negative.

        Raises:
            DownloadCancelled: The user asked to stop.
        """
        self._current += num_bytes
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self.tell()

    def begin(self) -> None:
        """A file begins, or begins again."""
        self._current = 0
        self.tell()

    def finish(self, num_bytes: int) -> None:
        """A file is complete."""
        self._finished += num_bytes
        self.begin()

    def tell(self) -> None:
        """Reports now.

        Raises:
            DownloadCancelled: The user asked to stop.
        """
        self._reported_at = time.monotonic()
        if self._report(self._finished + self._current):
            raise DownloadCancelled


def progress_bar(meter: Meter) -> type:
    """A class that huggingface_hub takes for a progress bar; an exception in it ends the transfer."""

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> "Bar":
            return self

        def __exit__(
            self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def update(self, num_bytes: float | None = 1) -> None:
            meter.add(int(num_bytes or 0))

    return Bar
