"""The answers of a job as they come: a file that only grows, each line with its hash, each row in it once.

An attempt begins a file of its own with what earlier attempts wrote, so that one that was thought dead disturbs nobody.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from storage.artifacts import sync_folder
from storage.disk import DiskFullError, refusing_full_disk
from worker.answering.questions import Answer

HASH_CHARACTERS = 16
LINES_KEPT = 64


class Journal:
    """The answers so far; memory holds one number for each row of the table.

    Args:
        path: The file; it must not be there yet.
        header: What all attempts have to agree on.
        num_rows: Rows of the table.

    Attributes:
        num_answered: Rows that are in it.
    """

    def __init__(self, path: Path, header: dict[str, Any], num_rows: int) -> None:
        self.path = path
        self.num_answered = 0
        self._offsets = np.full(num_rows, -1, dtype=np.int64)
        # Unbuffered, so that what a full disk refused is not written again behind the back of this class.
        self._file = path.open("xb", buffering=0)
        self._reader = path.open("rb")
        self._line = lru_cache(maxsize=LINES_KEPT)(self._read_line)
        self._append(_sealed(json.dumps(header)))

    def take_over(self, earlier: Path) -> None:
        """Copies the answers of another file, but for rows that are here and lines that are damaged."""
        for _, body in _sound_lines(earlier):
            answers = [answer for answer in _answers(body) if not self.has(answer.row)]
            if answers:
                self._note(answers, self._append(_line(answers)))

    def write(self, answers: Sequence[Answer]) -> None:
        """Adds the answers of a batch, which are on the disk when this returns.

        Raises:
            DiskFullError: There is no room; the file is as it was before.
        """
        offset = self._append(_line(answers))
        try:
            self.sync()
        except DiskFullError:
            self._file.truncate(offset)
            raise
        self._note(answers, offset)

    def sync(self) -> None:
        """Brings what was written to the disk."""
        with refusing_full_disk("keeping the answers"):
            os.fsync(self._file.fileno())
            sync_folder(self.path.parent)

    def has(self, row: int) -> bool:
        """Whether a row has its answer."""
        return bool(0 <= row < len(self._offsets) and self._offsets[row] >= 0)

    def read(self, start: int, stop: int) -> list[Answer | None]:
        """The answers of the rows `start` up to `stop` (left out); None for each that has none yet."""
        found: list[Answer | None] = []
        for row in range(start, stop):
            offset = int(self._offsets[row])
            found.append(None if offset < 0 else self._line(offset).get(row))
        return found

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        self._reader.close()

    def _note(self, answers: Sequence[Answer], offset: int) -> None:
        for answer in answers:
            self._offsets[answer.row] = offset
        self.num_answered += len(answers)

    def _append(self, line: bytes) -> int:
        offset, rest = self._file.seek(0, os.SEEK_END), memoryview(line)
        try:
            with refusing_full_disk("keeping the answers"):
                while rest:
                    rest = rest[self._file.write(rest) :]
        except DiskFullError:
            # A line that broke off would spoil the one behind it.
            self._file.truncate(offset)
            raise
        return offset

    def _read_line(self, offset: int) -> dict[int, Answer]:
        self._reader.seek(offset)
        return {answer.row: answer for answer in _answers(json.loads(_body(self._reader.readline()) or "[]"))}


def read_header(path: Path) -> dict[str, Any] | None:
    """The header of a file; None where it has none that can be read."""
    for number, body in _sound_lines(path):
        return body if number == 0 and isinstance(body, dict) else None
    return None


def _sound_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and content of each line whose hash is right; a line that a crash cut off has none."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            body = _body(line)
            if body is not None:
                yield number, json.loads(body)


def _answers(body: Any) -> list[Answer]:
    return [Answer(*values) for values in body] if isinstance(body, list) else []


def _line(answers: Sequence[Answer]) -> bytes:
    return _sealed(json.dumps([[answer.row, answer.text, answer.note, answer.num_tokens] for answer in answers]))


def _sealed(body: str) -> bytes:
    return f"{_hash(body.encode())} {body}\n".encode()


def _body(line: bytes) -> bytes | None:
    seal, _, body = line.rstrip(b"\n").partition(b" ")
    return body if seal == _hash(body).encode() else None


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:HASH_CHARACTERS]
