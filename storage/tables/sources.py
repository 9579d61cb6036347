"""The bytes and lines of an uploaded file, unpacked, counted and decoded as they are read."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from storage.errors import InvalidInputError, TooLargeError
from storage.tables.limits import Limits

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class SourceFile:
    """One uploaded file.

    Attributes:
        path: Where it lies.
        name: What the user calls it; it stands in every sentence about it.
        limits: Caps that hold for it.
        packing: What it was taken out of already, `zip` or `gzip`; empty where it lies as it was uploaded.
    """

    path: Path
    name: str
    limits: Limits
    packing: str = ""

    @property
    def is_gzip(self) -> bool:
        """Whether its bytes are compressed by gzip, whatever its name says."""
        with self.path.open("rb") as file:
            return file.read(2) == GZIP_MAGIC

    @property
    def inner_name(self) -> str:
        """Its name in lower case without `.gz`."""
        return self.name.lower().removesuffix(".gz")

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its unpacked bytes, from the beginning.

        Raises:
            TooLargeError: While it is read: more comes out than the limits allow.
            InvalidInputError: While it is read: the compressed data is damaged.
        """
        with self.path.open("rb") as file:
            if not self.is_gzip:
                yield file
                return
            allowed = self.limits.unpacked_bytes(self.path.stat().st_size)
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(BinaryIO, io.BufferedReader(_Counted(unpacked, self.name, allowed), CHUNK_BYTES))

    @contextmanager
    def text(self, encoding: str) -> Iterator[io.TextIOWrapper]:
        """Its text, from the beginning; line ends stay as they are, and CR, LF and CRLF all end a line."""
        with self.opened() as file, io.TextIOWrapper(file, encoding=encoding, newline="") as text:
            yield text

    def lines(self, encoding: str) -> Iterator[str]:
        """Its lines with their ends, none longer than a row may be.

        Raises:
            TooLargeError: A line is too long.
            InvalidInputError: Its bytes are not text in that encoding.
        """
        cap = self.limits.max_row_characters
        number = 0
        with self.text(encoding) as text:
            while line := self._readline(text, cap + 1, encoding):
                number += 1
                if len(line) > cap:
                    raise TooLargeError(
                        f"Line {number} of {self.name} is longer than {cap:,} characters, which is too much for a row. "
                        "Split the file into one row a line."
                    )
                yield line

    def _readline(self, text: io.TextIOWrapper, size: int, encoding: str) -> str:
        try:
            return text.readline(size)
        except UnicodeError as error:
            raise self.not_in(encoding) from error

    def not_in(self, encoding: str) -> InvalidInputError:
        """The error for bytes that are no text in `encoding`."""
        return InvalidInputError(
            f"{self.name} is not text in the encoding {encoding}. "
            "Choose the right encoding, or save the file again as UTF-8."
        )


class _Counted(io.RawIOBase):
    """Unpacked bytes of a gzip stream, no more than allowed."""

    def __init__(self, file: gzip.GzipFile, name: str, allowed_bytes: int) -> None:
        self._file = file
        self._name = name
        self._allowed_bytes = allowed_bytes
        self._read_bytes = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills the buffer as far as the stream goes."""
        try:
            data = self._file.read(len(buffer))
        except (EOFError, OSError, zlib.error) as error:
            raise InvalidInputError(
                f"The compressed data of {self._name} is damaged or cut off ({error}). Compress and upload it again."
            ) from error
        self._read_bytes += len(data)
        if self._read_bytes > self._allowed_bytes:
            raise TooLargeError(
                f"{self._name} unpacks to more than {self._allowed_bytes / 1e6:,.0f} MB, far more than a table of its "
                "size would. Upload it unpacked, or in smaller pieces."
            )
        buffer[: len(data)] = data
        return len(data)
