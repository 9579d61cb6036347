"""A stored table as JSON Lines in UTF-8, a batch of rows at a time."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.tables.view import iterate_columns


def json_lines(path: Path, columns: Sequence[str]) -> Iterator[bytes]:
    """One object a row.

    Args:
        path: A table as Parquet.
        columns: Which columns, in which order.
    """
    for batch in iterate_columns(path, columns):
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*batch, strict=True))
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
