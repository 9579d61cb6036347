"""What a user may ask of an answering job, and which columns of a table fill the prefix's template."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.schema.prefix import Prefix
from worker.engine.conversations import MESSAGES_COLUMN
from worker.engine.rendering import template_columns

DEFAULTS: dict[str, Any] = {"max_tokens": None, "temperature": 0.0, "top_p": 1.0, "seed": 0}
RANGES: dict[str, tuple[float, float, type]] = {
    "max_tokens": (1, 4096, int),
    "temperature": (0.0, 2.0, float),
    "top_p": (0.01, 1.0, float),
    "seed": (0, 2**31 - 1, int),
}
OTHERS = ("model", "mapping", "options")


def read_settings(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a job, from those that were given.

    Args:
        wishes: Some of `max_tokens`, `temperature`, `top_p`, `seed`; and those of `OTHERS`, which are passed over.

    Raises:
        InvalidInputError: A name is unknown, or a value is not of its kind or out of its range.
    """
    known = (*DEFAULTS, *OTHERS)
    unknown = sorted(set(wishes) - set(known))
    if unknown:
        raise InvalidInputError(f"There is no setting {quoted(unknown[0])}; expected {', '.join(known)}.")
    return {name: _checked(name, wishes.get(name), DEFAULTS[name]) for name in DEFAULTS}


def uses_prefix(prefix: Prefix, model: Any) -> bool:
    """Whether the prefix answers, or its base alone.

    Args:
        prefix: The prefix.
        model: The name of one of them, or None for the prefix.

    Raises:
        InvalidInputError: It is another name.
    """
    if model in (None, prefix.name):
        return True
    if model == prefix.base_model:
        return False
    raise InvalidInputError(
        f"model is {quoted(model)}; expected {quoted(prefix.name)}, or its base model {quoted(prefix.base_model)}."
    )


def needed_columns(prefix: Prefix) -> list[str]:
    """The columns that the prefix's template is filled from."""
    if prefix.rendering.get("kind") == "conversation":
        return [MESSAGES_COLUMN]
    return template_columns(str(prefix.rendering.get("template") or ""))


def matched(needed: Sequence[str], columns: Sequence[str], given: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Which column of a table fills which of the template; those without one are left out.

    A column is found by its name, or by its name in other letters and spaces. One that is alone on both sides is meant.

    Args:
        needed: Columns of the template.
        columns: Columns of the table.
        given: What the user says of it.

    Raises:
        InvalidInputError: The user names a column that is not there.
    """
    given = _checked_mapping(needed, columns, given or {})
    likes = {_plain(name): name for name in reversed(columns)}
    found = {}
    for name in needed:
        match = given.get(name) or (name if name in columns else likes.get(_plain(name)))
        if match is not None:
            found[name] = match
    if not found and len(needed) == len(columns) == 1:
        found[needed[0]] = columns[0]
    return found


def refuse_missing(prefix: Prefix, columns: Sequence[str], mapping: Mapping[str, str]) -> None:
    """Refuses a table that lacks a column of the template.

    Raises:
        InvalidInputError: Naming those that are missing, those that are there, and the way out.
    """
    missing = [name for name in needed_columns(prefix) if name not in mapping]
    if missing:
        plural = "columns" if len(missing) > 1 else "column"
        raise InvalidInputError(
            f"The table lacks the {plural} {', '.join(map(quoted, missing))}, from which {quoted(prefix.name)} makes "
            f"its prompts; it has {', '.join(map(quoted, columns))}. Rename them in the file, or say which stand for "
            'which in "mapping".'
        )


def _checked_mapping(needed: Sequence[str], columns: Sequence[str], given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InvalidInputError(f'mapping is {quoted(given)}; expected an object such as {{"text": "review"}}.')
    for name, column in given.items():
        if name not in needed:
            raise InvalidInputError(
                f"mapping names {quoted(name)}, which the prompt does not use; it uses "
                f"{', '.join(map(quoted, needed))}."
            )
        if column not in columns:
            raise InvalidInputError(
                f"mapping takes {quoted(name)} from {quoted(column)}, but the table has no such column; it has "
                f"{', '.join(map(quoted, columns))}."
            )
    return dict(given)


def _checked(name: str, value: Any, default: Any) -> Any:
    if value is None:
        return default
    low, high, kind = RANGES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (kind is int and value != int(value)):
        raise InvalidInputError(
            f"{name} is {quoted(str(value))}; expected {'a whole' if kind is int else 'a'} number from {low:g} to "
            f"{high:,}."
        )
    return kind(value)


def _plain(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum())
