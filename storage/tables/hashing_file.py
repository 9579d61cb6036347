"""A file that is hashed and brought to the disk while it is written, by threads beside the one that writes."""

import hashlib
import io
import os
import queue
import threading
from types import TracebackType
from typing import Any, BinaryIO

PIECES_WAITING = 8
"""Pieces of about a megabyte that may wait to be hashed."""

SYNC_EVERY_S = 0.2


class HashingFile(io.RawIOBase):
    """A file that counts its SHA-256; use it in a `with` block, after which `sha256` is known.

    Args:
        file: Open for writing, from its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._pieces: queue.Queue[bytes | None] = queue.Queue(PIECES_WAITING)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._hash, self._sync)]
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.put(None)
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of `data`."""
        # What Arrow hands over is its own again when this returns, unless it is a copy already.
        self._pieces.put(data if isinstance(data, bytes) else bytes(data))
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        """Of what was written, in hexadecimal digits."""
        return self._digest.hexdigest()

    def _hash(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)

    def _sync(self) -> None:
        """Whoever keeps the file waits for the disk at its end; most of a large one is there by then."""
        while not self._ended.wait(SYNC_EVERY_S):
            os.fsync(self._file.fileno())
