"""Tables whose rows are conversations: any reader's rows, their turns brought to one form in the column `messages`."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.chat_formats import is_conversation, is_sharegpt, read_conversation, write_conversation
from storage.tables.readers import Cells, TableReader

MESSAGES = "messages"
CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")
PROMPT, COMPLETION, SYSTEM = "prompt", "completion", "system"
LOOKED_AT = 20


class ConversationReader:
    """The rows of another reader as conversations.

    Args:
        inner: Reads the file.
        chat: The column that holds the turns, or two of them that follow each other (prompt and completion).
        style: How the turns are written, for the page to show.
    """

    def __init__(self, inner: TableReader, chat: Sequence[str], style: str) -> None:
        self._inner = inner
        self._chat = list(chat)
        self.source = inner.source
        self.detected: dict[str, Any] = {**inner.detected, "kind": "conversation", "chat_format": style}
        self._kept = [name for name in inner.columns() if name not in self._chat and name not in (MESSAGES, SYSTEM)]
        if self._kept:
            listed = f"{', '.join(self._kept[:5])} {'is' if len(self._kept) == 1 else 'are'}"
            note = f"The model is shown the messages alone; {listed} kept beside."
            self.detected["notes"] = [*self.detected.get("notes", []), note]

    def columns(self) -> list[str]:
        """`messages`, then what else the rows hold."""
        return [MESSAGES, *self._kept]

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows; a conversation in which the assistant says nothing becomes the empty text."""
        own = self._inner.columns()
        has_system = SYSTEM in own
        wanted = [*self._chat, *([SYSTEM] if has_system else []), *(name for name in columns if name != MESSAGES)]
        first_other = len(self._chat) + has_system
        place_of_messages = columns.index(MESSAGES)
        for row, cells in enumerate(self._inner.rows(wanted), start=1):
            value = [turn for cell in cells[: len(self._chat)] for turn in _parsed(cell, row, self.source.name)]
            turns = read_conversation(value, row, self.source.name)
            if has_system and turns and turns[0]["role"] != SYSTEM and (said := cells[len(self._chat)]).strip():
                turns = [{"role": SYSTEM, "content": said}, *turns]
            others = cells[first_other:]
            others.insert(place_of_messages, write_conversation(turns))
            yield others


def as_conversations(reader: TableReader) -> TableReader:
    """The reader itself, or where its rows are conversations one that gives these.

    Raises:
        StudioError: The file is no table.
    """
    names = reader.columns()
    candidates = [[name] for name in CHAT_COLUMNS if name in names]
    if PROMPT in names and COMPLETION in names:
        candidates.append([PROMPT, COMPLETION])
    for chat in candidates:
        found = _first_value(reader, chat)
        if found is not None:
            style = "prompt and completion" if len(chat) > 1 else "ShareGPT" if is_sharegpt(found) else MESSAGES
            return ConversationReader(reader, chat, style)
    return reader


def _first_value(reader: TableReader, chat: Sequence[str]) -> list[Any] | None:
    """The first conversation under these columns; None where they hold something else."""
    for cells in islice(reader.rows(chat), LOOKED_AT):
        if all(cell.strip() in ("", "[]") for cell in cells):
            continue
        if not all(cell.lstrip().startswith("[") for cell in cells):
            return None
        try:
            values = [json.loads(cell) for cell in cells]
        except (ValueError, RecursionError):
            return None
        return values[0] if all(map(is_conversation, values)) else None
    return None


def _parsed(cell: str, row: int, name: str) -> list[Any]:
    if not cell.strip():
        return []
    try:
        value = json.loads(cell, strict=False)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"Row {row} of {name} holds messages that are no JSON ({str(error)[:60]}). Repair or leave out that row.",
            row=row,
        ) from error
    if not isinstance(value, list):
        raise InvalidInputError(
            f"Row {row} of {name} holds {quoted(cell[:40])} where its messages should be; expected a list of them. "
            "Repair or leave out that row.",
            row=row,
        )
    return value
