"""Rows that are conversations: JSON text of turns, their last answer, and how a person reads them.

A conversation is a list of `{"role", "content"}`; `storage.tables.conversations` brings every chat format to it. As a
prompt it is the JSON text of the turns before the answer, so that it travels like any other prompt; a prompt that is no
such text is one message of the user. Knows no torch and no tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from worker.engine.errors import EngineError

MESSAGES_COLUMN = "messages"
"""The column in which the reader of files puts conversations."""

MAPPING = {"template": f"{{{MESSAGES_COLUMN}}}", "target": MESSAGES_COLUMN, "rendering": "chat"}
"""What the mapping of a table of conversations says."""

ROLE_NAMES = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}

Turn = Mapping[str, str]


class ConversationError(EngineError):
    """A row holds no conversation that can be learnt from."""

    code = "invalid_conversation"


def is_conversation(mapping: Mapping[str, Any]) -> bool:
    """Whether a mapping takes whole conversations: they are prompt and answer in one."""
    return all(mapping.get(name) == MAPPING[name] for name in ("template", "target"))


def read_turns(text: str) -> list[Turn]:
    """The turns that a cell holds.

    Raises:
        ConversationError: It is not the JSON text of a list of `{"role", "content"}`.
    """
    turns = _turns_or_none(text)
    if turns is None:
        raise ConversationError(
            f"A cell of {MESSAGES_COLUMN!r} begins with {text[:40]!r}; expected a list of messages, each with role and "
            "content. Upload the conversations again."
        )
    return turns


def prompt_turns(prompt: str) -> list[Turn]:
    """The turns of a prompt: those that it is the JSON text of, or its text as one message of the user."""
    turns = _turns_or_none(prompt)
    return [{"role": "user", "content": prompt}] if turns is None else turns


def exchanges(text: str) -> list[str]:
    """The conversation cut off behind each turn of the assistant that answers something: one text for each answer."""
    turns = read_turns(text)
    ends = [index for index, turn in enumerate(turns) if index and turn["role"] == "assistant"]
    return [write_turns(turns[: end + 1]) for end in ends]


def prompt_messages(prompt: str, shots: Sequence[tuple[str, str]], *, may_hold_turns: bool) -> list[Turn]:
    """The messages of a prompt, with examples before them; a system message stays in front of all.

    Args:
        prompt: One message of the user, or the JSON text of several turns.
        shots: Prompts with their answers.
        may_hold_turns: Whether prompts are looked at as JSON text of turns.
    """
    turns = prompt_turns(prompt) if may_hold_turns else [{"role": "user", "content": prompt}]
    return with_examples(turns, shots, may_hold_turns=may_hold_turns)


def with_examples(turns: Sequence[Turn], shots: Sequence[tuple[str, str]], *, may_hold_turns: bool) -> list[Turn]:
    """Puts prompts with their answers between the system message of a conversation and its other turns."""
    if not shots:
        return list(turns)
    shown: list[Turn] = []
    for asked, answer in shots:
        before = prompt_turns(asked) if may_hold_turns else [{"role": "user", "content": asked}]
        shown += [turn for turn in before if turn["role"] != "system"]
        shown.append({"role": "assistant", "content": answer})
    head = [turn for turn in turns if turn["role"] == "system"]
    return [*head, *shown, *(turn for turn in turns if turn["role"] != "system")]


def split_last_answer(text: str) -> tuple[str, str]:
    """A conversation as prompt and answer: the JSON text of all turns before the assistant's last, and that turn.

    Raises:
        ConversationError: The assistant never speaks, or nothing comes before it.
    """
    turns = read_turns(text)
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
    if last == 0:
        raise ConversationError("A conversation has no answer of the assistant to learn. Leave such rows out.")
    return write_turns(turns[:last]), turns[last]["content"]


def write_turns(turns: Sequence[Turn]) -> str:
    """JSON text of turns, as the reader of files writes it."""
    return json.dumps([{"role": turn["role"], "content": turn["content"]} for turn in turns], ensure_ascii=False)


def transcript(prompt: str) -> str:
    """A prompt as a person reads it: who says what, a blank line between two turns; a lone user message as it is."""
    turns = prompt_turns(prompt)
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{ROLE_NAMES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in turns)


def readable(kind: str, prompt: str) -> str:
    """A prompt as a person reads it, whatever kind of rendering it belongs to."""
    return transcript(prompt) if kind == "conversation" else prompt


def _turns_or_none(text: str) -> list[Turn] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(found, list) and bool(found)
    return found if is_list and all(map(_is_turn, found)) else None


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))
