"""How much a file may hold, so that no file can take the machine down, and how much it has to."""

import codecs
from dataclasses import asdict, dataclass, fields
from typing import Any

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.settings import MAX_UPLOAD_BYTES

UNPACKED_FLOOR_BYTES = 64_000_000
UNPACKED_RATIO = 100
"""Tables of texts shrink by a factor of 3 to 20 when they are compressed; a bomb shrinks by thousands."""

NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
"""Encodings of names and of program text, which no file is in."""

TEXT_FORMATS = ("csv", "tsv", "json", "jsonl")


@dataclass(frozen=True)
class Limits:
    """Caps of one upload.

    Attributes:
        max_file_bytes: Bytes of the uploaded files together.
        max_unpacked_bytes: Bytes of text that may come out of them.
        max_row_characters: Characters of one row, and so of one cell.
        max_columns: Columns of the table.
        min_columns: The same at least: two to learn from, one for the prompt and one for the answer.
        max_depth: Levels of records within records.
        max_object_bytes: Bytes of a JSON file that is one single object, which has to be read as a whole.
        memory_bytes: Memory of the process that reads.
        timeout_s: Time that it may take.
    """

    max_file_bytes: int = MAX_UPLOAD_BYTES
    max_unpacked_bytes: int = 4_000_000_000
    max_row_characters: int = 8_000_000
    max_columns: int = 500
    min_columns: int = 2
    max_depth: int = 16
    max_object_bytes: int = 64_000_000
    memory_bytes: int = 1 << 30
    timeout_s: float = 900.0

    def unpacked_bytes(self, file_bytes: int) -> int:
        """Bytes that a compressed file of `file_bytes` may unpack to."""
        return min(self.max_unpacked_bytes, max(UNPACKED_FLOOR_BYTES, UNPACKED_RATIO * file_bytes))

    def to_dict(self) -> dict[str, Any]:
        """The limits as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class ReadOptions:
    """What a user says about a file where the guess was wrong; None leaves it to be detected.

    Attributes:
        encoding: Name of a text encoding, such as `cp1252`.
        delimiter: The one character between two fields.
        header: Whether the first line names the columns.
        sheet: Name of a workbook's sheet.
        format: `csv`, `tsv`, `json` or `jsonl`, for a text that could be read as either.
        leave_out_ragged: Whether rows with too many or too few fields are left out and counted, rather than refused.

    Raises:
        InvalidInputError: A value cannot be used.
    """

    encoding: str | None = None
    delimiter: str | None = None
    header: bool | None = None
    sheet: str | None = None
    format: str | None = None
    leave_out_ragged: bool | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            raise InvalidInputError(
                f"{quoted(self.encoding)} is no text encoding that is known here; expected a name such as utf-8 or "
                "cp1252."
            )
        if self.delimiter is not None and not _is_separator(self.delimiter):
            raise InvalidInputError(
                f"The separator is {quoted(self.delimiter)}; expected one character, such as a comma, a semicolon or a "
                "tab."
            )
        if self.header is not None and not isinstance(self.header, bool):
            raise InvalidInputError(f"header is {quoted(self.header)}; expected true or false.")
        if self.leave_out_ragged is not None and not isinstance(self.leave_out_ragged, bool):
            raise InvalidInputError(f"leave_out_ragged is {quoted(self.leave_out_ragged)}; expected true or false.")
        if self.sheet is not None and not isinstance(self.sheet, str):
            raise InvalidInputError(f"sheet is {quoted(self.sheet)}; expected the name of a sheet.")
        if self.format is not None and self.format not in TEXT_FORMATS:
            raise InvalidInputError(f"format is {quoted(self.format)}; expected one of {', '.join(TEXT_FORMATS)}.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ReadOptions":
        """Reads options that came from outside.

        Raises:
            InvalidInputError: A name is unknown, or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InvalidInputError(f"There is no reading option {quoted(unknown[0])}; expected {', '.join(known)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON can hold them."""
        return asdict(self)


def _is_separator(sign: object) -> bool:
    return isinstance(sign, str) and len(sign) == 1 and sign not in '"\r\n\0'


def _is_text_encoding(name: object) -> bool:
    try:
        # Codecs such as `hex` are known too, but encode() refuses them. For empty text it would not look at the name.
        return isinstance(name, str) and bool("a".encode(name)) and codecs.lookup(name).name not in NOT_OF_FILES
    except (LookupError, ValueError):
        return False
