"""What a parsed upload amounts to, before it becomes a version of a dataset."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Part = Literal["train", "validation", "test"]

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class StoredTable:
    """A table whose rows lie in the artifact store as Parquet; every cell is text, an absent one the empty text.

    Attributes:
        blobs: SHA-256 of the Parquet file of each part; `train` is always there.
        columns: Names of the columns, in the order of the file.
        num_rows: Rows of each part.
        size_bytes: Bytes of the Parquet files together.
        content_hash: Hash of what the table says: its columns and its rows, whatever file they came in.
        detected: How the file was read (format, encoding, separator), for the page to show.
    """

    blobs: dict[Part, str]
    columns: list[str]
    num_rows: dict[Part, int]
    size_bytes: int
    content_hash: str
    detected: dict[str, Any]
