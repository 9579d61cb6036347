"""The ways in which conversations are written down, brought to one: a list of `{"role", "content"}`."""

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInputError
from storage.quotes import quoted

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Names of roles in published chats; a call of a tool is what the assistant says, its result speaks as `tool`."""

ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")
PART_KEYS = ("text", "value", "content")
CALL_KEYS = ("tool_calls", "function_call")

Turn = dict[str, str]


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns in any of the known ways; its turns may still be refused."""
    return isinstance(value, list) and bool(value) and all(_role_key(turn) is not None for turn in value)


def is_sharegpt(value: list[Any]) -> bool:
    """Whether turns are written with `from` and `value`."""
    return "role" not in value[0]


def read_conversation(value: Any, row: int, name: str) -> list[Turn]:
    """The turns of a row; none where the assistant says nothing that could be learnt.

    Args:
        value: What stands in the column, parsed from JSON.
        row: Its number, counted from 1, for the error.
        name: The file, for the error.

    Raises:
        InvalidInputError: A turn is not of a known form; the sentence names row and turn.
    """
    if value in (None, "", []):
        return []
    if not isinstance(value, list):
        raise _refused(row, name, f"holds {quoted(str(value)[:40])} where its messages should be; expected a list")
    turns = [_turn(turn, number, row, name) for number, turn in enumerate(value, start=1)]
    has_answer = any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns[1:])
    return turns if has_answer else []


def write_conversation(turns: list[Turn]) -> str:
    """JSON text of turns; the empty text where there are none, so that the row counts as one without an answer."""
    return json.dumps(turns, ensure_ascii=False) if turns else ""


def _turn(turn: Any, number: int, row: int, name: str) -> Turn:
    key = _role_key(turn)
    if key is None:
        raise _refused(row, name, f"has a message {number} that is no object with role and content")
    role = ROLES.get(str(turn[key]).strip().lower())
    if role is None:
        known = "system, user, assistant or tool"
        raise _refused(row, name, f"has the role {quoted(str(turn[key])[:40])} in message {number}; expected {known}")
    return {"role": role, "content": _content(turn, number, row, name)}


def _content(turn: Mapping[str, Any], number: int, row: int, name: str) -> str:
    value = next((turn[key] for key in TEXT_KEYS if turn.get(key) is not None), None)
    calls = next((turn[key] for key in CALL_KEYS if turn.get(key)), None)
    text = "" if value is None else _joined(value, number, row, name)
    if calls is None:
        if value is None:
            raise _refused(row, name, f"has no content in message {number}")
        return text
    # Kept as text: each chat template has a form of its own for calls, and none of them can be had without the base.
    called = calls if isinstance(calls, str) else json.dumps(calls, ensure_ascii=False)
    return f"{text}\n{called}" if text else called


def _joined(value: Any, number: int, row: int, name: str) -> str:
    """Text as it is, or typed parts put one behind the other."""
    if isinstance(value, str):
        return value
    parts = [value] if isinstance(value, Mapping) else value
    if not isinstance(parts, list):
        return json.dumps(value, ensure_ascii=False)
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        found = (
            next((part[key] for key in PART_KEYS if isinstance(part.get(key), str)), None) if kind in TEXTUAL else None
        )
        if found is None and kind in TEXTUAL:
            raise _refused(row, name, f"has a part without text in message {number}; expected it under text")
        if found is None:
            raise _refused(
                row, name, f"has a part of the type {quoted(str(kind)[:40])} in message {number}; expected text"
            )
        texts.append(found)
    return "".join(texts)


TEXTUAL = ("text", "input_text", "output_text")


def _role_key(turn: Any) -> str | None:
    if not isinstance(turn, Mapping):
        return None
    has_text = any(key in turn for key in (*TEXT_KEYS, *CALL_KEYS))
    return next((key for key in ROLE_KEYS if isinstance(turn.get(key), str)), None) if has_text else None


def _refused(row: int, name: str, what: str) -> InvalidInputError:
    return InvalidInputError(f"Row {row} of {name} {what}. Repair or leave out that row.", row=row)
