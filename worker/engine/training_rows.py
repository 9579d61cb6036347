"""From a row of the training part to what is learnt from it: one example, or one for each answer of a conversation."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from worker.engine.chat_template import Message, conversation_ids
from worker.engine.conversations import exchanges, read_turns
from worker.engine.example import Example
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_example, target_ids_of


def encode_row(
    tokenizer: PreTrainedTokenizerBase, rendering: Rendering, row: Mapping[str, str], *, has_encoder: bool = False
) -> list[tuple[dict[str, str], Example]]:
    """What a training learns from a row, each with the row that it is encoded from.

    A conversation gives one for each turn of the assistant, with the row cut off behind that turn; every other row
    gives itself.

    Raises:
        InvalidTemplateError: The row lacks a column.
        ConversationError: The row holds no conversation.
        ChatTemplateError: The template refuses the messages.
    """
    if rendering.kind != "conversation":
        return [(dict(row), encode_example(tokenizer, rendering, row, has_encoder=has_encoder))]
    text = row[rendering.target]
    cut = [{**row, rendering.target: each} for each in exchanges(text)]
    return list(zip(cut, encode_conversation(tokenizer, read_turns(text)), strict=True))


def encode_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Example]:
    """A row that is a conversation: one example per turn of the assistant, all turns before it as prompt.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: `{"role", "content"}` in order.

    Raises:
        ChatTemplateError: There is no template, or it refuses the messages.
    """
    return [
        Example(
            prompt_ids=tuple(conversation_ids(tokenizer, messages[:index])),
            target_ids=tuple(target_ids_of(tokenizer, "chat", message["content"])),
        )
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and index > 0
    ]
