"""Which part of a dataset each uploaded file is, and whether the files fit together."""

import re
from collections.abc import Mapping, Sequence

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.conversations import ConversationReader
from storage.tables.json_reader import JsonReader, columns_of
from storage.tables.readers import TableReader, check_columns, check_width
from storage.tables.records import Shape
from storage.tables.table import PARTS, Part

PART_WORDS: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "devset": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
    "trainset": "train",
}


def part_of(name: str) -> Part | None:
    """The part that a file's name speaks of: `dev.csv` and `reviews-validation.jsonl` are for validation."""
    words = re.findall(r"[a-z]+", name.lower().rpartition("/")[2])
    found = {PART_WORDS[word] for word in words if word in PART_WORDS}
    return found.pop() if len(found) == 1 else None


def assign_parts(names: Sequence[str]) -> dict[Part, int]:
    """The index of the file of each part. A single file is for training, whatever its name.

    Raises:
        InvalidInputError: The names do not tell the parts, or two tell the same one.
    """
    if not names:
        raise InvalidInputError("There is no file. Choose one with a row of data on each line.")
    if len(names) == 1:
        return {"train": 0}
    parts: dict[Part, int] = {}
    for index, name in enumerate(names):
        part = part_of(name)
        if part is None:
            raise InvalidInputError(
                f"{name} does not say which part it is. Upload one file, or name several so that each holds the word "
                "train, validation or test."
            )
        if part in parts:
            raise InvalidInputError(
                f"{names[parts[part]]} and {name} are both for {part}. Join them into one file, or leave one out."
            )
        parts[part] = index
    if "train" not in parts:
        raise InvalidInputError(f"None of {', '.join(names)} is for training. Add a file such as train.csv.")
    return {part: parts[part] for part in PARTS if part in parts}


def common_columns(readers: Sequence[TableReader]) -> list[str]:
    """Columns of the table that all files form, in the order of the first.

    Raises:
        StudioError: A file is no table, or its columns are not those of the first.
    """
    records = [reader for reader in readers if isinstance(reader, JsonReader)]
    if len(records) == len(readers):
        columns = _common_fields(records)
    else:
        columns = readers[0].columns()
        for reader in readers[1:]:
            _compare(readers[0].source.name, columns, reader.source.name, reader.columns())
    if not isinstance(readers[0], ConversationReader):
        check_width(columns, readers[0].source)
    return columns


def _common_fields(readers: Sequence[JsonReader]) -> list[str]:
    """Files of records need the same fields; an object in one of them may have keys of its own in each file."""
    first = readers[0]
    fields = {name: Shape() for name in first.fields}
    for reader in readers:
        _compare(first.source.name, list(fields), reader.source.name, list(reader.fields))
        for name, shape in reader.fields.items():
            fields[name].merge(shape)
    columns = columns_of(fields)
    check_columns(columns, first.source)
    return columns


def _compare(first: str, expected: Sequence[str], other: str, found: Sequence[str]) -> None:
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        told = [f"lacks {', '.join(map(quoted, missing[:5]))}"] if missing else []
        told += [f"has {', '.join(map(quoted, surplus[:5]))} besides"] if surplus else []
        raise InvalidInputError(
            f"The columns of {other} are not those of {first}: it {' and '.join(told)}. "
            "Give all files the same columns."
        )
