"""Conversations → token ids through a base's own chat template; knows no rows and no renderings.

A template is a program that came with the model: transformers runs it in a sandbox, and here it also gets a limit on
what goes in, on what comes out and on how long it may run.
"""

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from worker.engine.errors import EngineError

MAX_PROMPT_CHARACTERS = 200_000
MAX_RENDERED_CHARACTERS = 1_000_000
RENDER_TIMEOUT_S = 10.0
SENTINEL = "prefixsentinel"
"""A word that no template contains, by which the probes below find their own text again."""

Message = Mapping[str, str]


class ChatTemplateError(EngineError):
    """The base has no chat template, or its template refuses the messages."""

    code = "chat_template"


class _OverdueError(Exception):
    """Raised inside a template that runs for too long."""


@dataclass(frozen=True)
class ChatFormat:
    """What has to be known about a template beside its text.

    Attributes:
        turn_end_id: The token that ends an assistant's turn; None where the tokenizer has no end token at all.
        takes_system: Whether a system message is rendered rather than refused or dropped.
    """

    turn_end_id: int | None
    takes_system: bool


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(tokenizer.chat_template)


def conversation_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to where the assistant speaks next.

    The same ids as `tokenizer.apply_chat_template(messages, add_generation_prompt=True)`.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: `{"role", "content"}` in order.

    Raises:
        ChatTemplateError: There is no template, it refuses the messages, or a limit is passed.
    """
    text = render_conversation(tokenizer, messages, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    """The text of a conversation as the template writes it.

    Raises:
        ChatTemplateError: As for `conversation_ids`.
    """
    if not has_chat_template(tokenizer):
        raise ChatTemplateError(
            "This base model has no chat template, so it cannot take messages. Send a plain prompt instead."
        )
    num_characters = sum(len(message["content"]) for message in messages)
    if num_characters > MAX_PROMPT_CHARACTERS:
        raise ChatTemplateError(
            f"The messages have {num_characters:,} characters; expected at most {MAX_PROMPT_CHARACTERS:,}. "
            "Shorten them."
        )
    return _run_template(tokenizer, [dict(message) for message in messages], add_generation_prompt)


def with_instruction(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], instruction: str
) -> list[Message]:
    """Puts a written instruction before a conversation.

    It becomes a system message (in front of the text of the one there is), or the head of the first user message where
    the template takes none.
    """
    role = "system" if chat_format(tokenizer).takes_system else "user"
    turns = list(messages)
    at = next((index for index, message in enumerate(turns) if message["role"] == role), None)
    if at is None:
        return [{"role": role, "content": instruction}, *turns]
    joined = f"{instruction}\n\n{turns[at]['content']}"
    return [*turns[:at], {"role": role, "content": joined}, *turns[at + 1 :]]


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Finds out how a template ends a turn and whether it takes a system message.

    Raises:
        ChatTemplateError: As for `conversation_ids`.
    """
    return _probe(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=4)
def _probe(tokenizer: PreTrainedTokenizerBase, template: str) -> ChatFormat:
    """Two short conversations rendered once per tokenizer; `template` is part of the key, as it may be replaced."""
    user = {"role": "user", "content": "question"}
    answered = [user, {"role": "assistant", "content": SENTINEL}]
    tail = render_conversation(tokenizer, answered, add_generation_prompt=False).rpartition(SENTINEL)[2]
    control_ids = set(tokenizer.added_tokens_decoder)
    tail_ids = tokenizer(tail, add_special_tokens=False).input_ids
    turn_end_id = next((token_id for token_id in tail_ids if token_id in control_ids), tokenizer.eos_token_id)
    try:
        instructed = [{"role": "system", "content": SENTINEL}, user]
        takes_system = SENTINEL in render_conversation(tokenizer, instructed, add_generation_prompt=True)
    except ChatTemplateError:
        takes_system = False
    return ChatFormat(turn_end_id=turn_end_id, takes_system=takes_system)


def _run_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], add_generation_prompt: bool
) -> str:
    """Renders in a thread of its own, which is interrupted when its time is up.

    The exception that Python can raise in another thread takes hold between two of its bytecodes, which is where a
    template that loops spends its time.
    """
    outcome: dict[str, Any] = {}

    def render() -> None:
        try:
            outcome["text"] = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except BaseException as error:  # handed to the caller, who is in another thread
            outcome["error"] = error

    thread = threading.Thread(target=render, name="chat-template", daemon=True)
    thread.start()
    thread.join(RENDER_TIMEOUT_S)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_OverdueError))
        raise ChatTemplateError(
            f"The chat template of this base model ran for more than {RENDER_TIMEOUT_S:g} s and was stopped. "
            "Use plain rendering with it."
        )
    if "error" in outcome:
        raise _refusal(outcome["error"]) from outcome["error"]
    text: str = outcome["text"]
    if len(text) > MAX_RENDERED_CHARACTERS:
        raise ChatTemplateError(
            f"The chat template of this base model made {len(text):,} characters of a short conversation; expected at "
            f"most {MAX_RENDERED_CHARACTERS:,}. Use plain rendering with it."
        )
    return text


def _refusal(error: BaseException) -> BaseException:
    """A sentence for what a template may raise; anything else is a fault of ours and stays as it is."""
    if isinstance(error, TemplateError | TypeError | ValueError | KeyError | OverflowError):
        return ChatTemplateError(f"The chat template of this base model refuses the messages: {error}")
    return error
