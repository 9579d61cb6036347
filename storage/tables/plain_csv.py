"""The fast way through delimited text: Arrow's reader, for files that it reads exactly as the careful one does.

Arrow is lenient where `storage.tables.delimited` is strict, so every byte is looked at on its way: quotes may stand
only around whole fields (doubled inside), line ends are LF or CRLF, and there are no NULs. On such text both readers
agree, which a test checks on random files. Anything else raises `NotPlainError`, and the file is read again with care,
which also finds the sentence for what is wrong with it.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from storage.tables.sources import SourceFile
from storage.tables.text_columns import offsets_of

BLOCK_BYTES = 1 << 20
QUOTE, LF, CR = b'"'[0], b"\n"[0], b"\r"[0]
BOM = b"\xef\xbb\xbf"
LONGEST_SHARE = 4
"""A row this many times below the cap is under it however its characters and quotes are counted."""


class NotPlainError(Exception):
    """The file has something in it that needs the careful reader."""


class PlainText(io.RawIOBase):
    """The bytes of a file as they are, looked at while they pass.

    Args:
        file: The file, from its beginning.
        delimiter: The separator.
        may_quote: Whether quotes have a meaning that both readers give them.
    """

    def __init__(self, file: BinaryIO, delimiter: str, *, may_quote: bool) -> None:
        self._file = file
        self._may_quote = may_quote
        self._is_edge = np.zeros(256, dtype=bool)
        self._is_edge[[ord(delimiter), LF, CR]] = True
        self._num_quotes = 0
        self._last = b"\n"
        self._is_first = True

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes.

        Raises:
            NotPlainError: They need the careful reader.
        """
        data = self._file.read(size)
        if data:
            self._look(data)
        else:
            self._end()
        return data

    def _look(self, data: bytes) -> None:
        # One byte before what is new, so that a pair of bytes is never cut apart.
        window = self._last + (data.removeprefix(BOM) if self._is_first else data)
        self._is_first = False
        if b"\0" in window:
            raise NotPlainError("a NUL")
        codes = np.frombuffer(window, dtype=np.uint8)
        if b"\r" in window:
            returns = np.flatnonzero(codes[:-1] == CR)
            if (codes[returns + 1] != LF).any():
                raise NotPlainError("a CR alone")
        if b'"' in window:
            self._look_at_quotes(codes)
        self._last = window[-1:]

    def _look_at_quotes(self, window: npt.NDArray[np.uint8]) -> None:
        """Quotes open and close in turn; each must stand at the edge of a field or beside its double.

        A quote at the very end of the window is looked at with what follows it.
        """
        places = np.flatnonzero(window == QUOTE)
        if not self._may_quote:
            raise NotPlainError("quotes in a file where they may be text")
        # The first byte was counted before; its right neighbour is only known now.
        if places[0] == 0:
            self._num_quotes -= 1
        is_open = (self._num_quotes + np.arange(len(places))) % 2 == 0
        self._num_quotes += len(places)
        before = places[is_open & (places > 0)] - 1
        behind = places[~is_open & (places < len(window) - 1)] + 1
        is_edge_before = self._is_edge[window[before]] | (window[before] == QUOTE)
        is_edge_behind = self._is_edge[window[behind]] | (window[behind] == QUOTE)
        if not (is_edge_before.all() and is_edge_behind.all()):
            raise NotPlainError("a quote inside a field")

    def _end(self) -> None:
        if self._num_quotes % 2 or self._last == b"\r":
            raise NotPlainError("an open quote or a CR at the end")


def plain_batches(
    source: SourceFile, delimiter: str, first_row: Sequence[str], *, has_header: bool
) -> Iterator[pa.RecordBatch]:
    """All rows of a file beneath its header, as columns of text named by their place.

    Args:
        source: UTF-8 text, with or without a byte order mark.
        delimiter: One ASCII character.
        first_row: What the careful reader takes for the first row; it must be the first here too.
        has_header: Whether that row is no data.

    Raises:
        NotPlainError: While it is read: the careful reader is needed.
    """
    width = len(first_row)
    names = [str(place) for place in range(width)]
    cap = source.limits.max_row_characters // LONGEST_SHARE
    try:
        with source.opened() as file:
            batches = _open(PlainText(file, delimiter, may_quote=delimiter != "\t"), delimiter, names)
            is_first = True
            for batch in batches:
                if is_first and batch.num_rows:
                    if [column[0].as_py() for column in batch.columns] != list(first_row):
                        raise NotPlainError("a first row of blanks")
                    batch, is_first = batch.slice(int(has_header)), False
                _check_lengths(batch, cap)
                if batch.num_rows:
                    yield batch
    except pa.ArrowException as error:
        raise NotPlainError(str(error)) from error


def _open(text: PlainText, delimiter: str, names: list[str]) -> Any:
    csv = pyarrow.csv
    return csv.open_csv(
        pa.PythonFile(text, mode="r"),
        read_options=csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=True),
        parse_options=csv.ParseOptions(delimiter=delimiter, quote_char='"', double_quote=True, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
            check_utf8=True,
        ),
    )


def _check_lengths(batch: pa.RecordBatch, cap: int) -> None:
    if not batch.num_rows:
        return
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        total += np.diff(offsets_of(column))
    if int(total.max()) > cap:
        raise NotPlainError("a very long row")
