"""The contract: from a row to token ids (docs/contract.md). Training, evaluation and every way of use call this.

Knows no model, no database and no file; what it returns for given texts is frozen in tests/golden.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

from transformers import PreTrainedTokenizerBase

from worker.engine.chat_template import (
    ChatTemplateError,
    chat_format,
    conversation_ids,
    has_chat_template,
    with_instruction,
)
from worker.engine.conversations import prompt_messages, split_last_answer
from worker.engine.errors import ContextOverflowError, EngineError, InvalidRecipeError
from worker.engine.example import Example
from worker.engine.rendering import InvalidTemplateError, Rendering, RenderingKind, render_prompt

Context = Literal["none", "instruction", "few-shot"]
KindWish = Literal["auto", "plain", "chat", "conversation"]

NUM_SHOTS = 4
"""Examples that the few-shot baseline shows."""

BLANK_LINE = "\n\n"


def choose_rendering_kind(tokenizer: PreTrainedTokenizerBase, wish: KindWish = "auto") -> RenderingKind:
    """Decides between plain text and the chat template.

    Args:
        tokenizer: Tokenizer of the base.
        wish: What the user chose; `auto` takes the chat template where there is one.

    Raises:
        ChatTemplateError: `chat` is wished for and there is no template.
    """
    if wish == "auto":
        return "chat" if has_chat_template(tokenizer) else "plain"
    if wish == "conversation" and not has_chat_template(tokenizer):
        raise ChatTemplateError(
            "The rows are conversations, and this base model has no chat template to write them with. Choose a chat "
            "model as base, or upload rows of one prompt and one answer."
        )
    if wish == "chat" and not has_chat_template(tokenizer):
        raise ChatTemplateError(
            "This base model has no chat template. Choose plain rendering, or a chat model as base."
        )
    return wish


def join_plain(prompt: str, target: str) -> tuple[str, str]:
    """Moves the space between prompt and answer to the answer's side, where tokenizers expect it.

    Args:
        prompt: Rendered prompt.
        target: The answer.

    Returns:
        Prompt without spaces at its end, and target with those in front; with one space in front where the prompt did
        not end in white space.
    """
    stripped = prompt.rstrip(" ")
    spaces = prompt[len(stripped) :]
    if not spaces and not prompt[-1:].isspace():
        spaces = " "
    return stripped, spaces + target


def raw_prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as a user of the download would get them, with the tokenizer's default special tokens.

    Where that leaves nothing (an empty prompt, and a tokenizer without a start token), the start or end token stands
    in: a model cannot be asked about no token at all.

    Raises:
        EngineError: There is no such token either.
    """
    ids = list(tokenizer(text).input_ids)
    if ids:
        return ids
    fallback = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if fallback is None:
        raise EngineError("The prompt is empty, and this base model has no start token. Write at least one word.")
    return [fallback]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering,
    prompt: str,
    *,
    context: Context = "none",
    few_shot: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """Ids of a prompt, the same in training and in use.

    Args:
        tokenizer: Tokenizer of the base.
        rendering: How the prefix renders; its kind and instruction are used.
        prompt: The filled-in template.
        context: What stands in front: nothing, the written instruction, or examples.
        few_shot: Rendered prompts with their answers, for the context `few-shot`; see `draw_few_shot`.

    Raises:
        ChatTemplateError: The template refuses the message.
        EngineError: The prompt is empty and cannot be so.
    """
    shots = list(few_shot) if context == "few-shot" else []
    if rendering.uses_chat_template:
        messages = prompt_messages(prompt, shots, may_hold_turns=rendering.kind == "conversation")
        if context == "instruction" and rendering.instruction:
            messages = with_instruction(tokenizer, messages, rendering.instruction)
        return conversation_ids(tokenizer, messages)
    parts = ["".join(join_plain(*shot)) for shot in shots]
    if context == "instruction" and rendering.instruction:
        parts = [rendering.instruction]
    return raw_prompt_ids(tokenizer, BLANK_LINE.join([*parts, join_plain(prompt, "")[0]]))


def encode_example(
    tokenizer: PreTrainedTokenizerBase, rendering: Rendering, row: Mapping[str, str], *, has_encoder: bool = False
) -> Example:
    """A training row as ids: prompt and answer tokenised apart, the end token last.

    Args:
        tokenizer: Tokenizer of the base.
        rendering: Template, target column and kind.
        row: Column name to cell text.
        has_encoder: Whether prompt and answer stay apart (`Geometry.has_encoder`), so that no space comes between.

    Raises:
        InvalidTemplateError: The row lacks a column.
        ChatTemplateError: The template refuses the message.
    """
    prompt, target = render_row(rendering, row)
    if rendering.kind == "plain" and not has_encoder:
        target = join_plain(prompt, target)[1]
    return Example(
        prompt_ids=tuple(encode_prompt(tokenizer, rendering, prompt)),
        target_ids=tuple(target_ids_of(tokenizer, rendering.kind, target)),
    )


def render_row(rendering: Rendering, row: Mapping[str, str]) -> tuple[str, str]:
    """Prompt and answer of a row, both verbatim; of a conversation the turns before its last answer, and that.

    Raises:
        InvalidTemplateError: The row lacks a column.
        ConversationError: The row holds no conversation with an answer.
    """
    if rendering.target not in row:
        raise InvalidTemplateError(f"The answer is taken from {{{rendering.target}}}, but the row has no such column.")
    if rendering.kind == "conversation":
        return split_last_answer(row[rendering.target])
    return render_prompt(rendering.template, row), row[rendering.target]


def draw_few_shot(
    rendering: Rendering, rows: Sequence[Mapping[str, str]], num_shots: int = NUM_SHOTS
) -> list[tuple[str, str]]:
    """The examples of the few-shot baseline: the same for the same seed and rows.

    Args:
        rendering: Template, target and `few_shot_seed`.
        rows: The training part.
        num_shots: How many to draw; all rows where there are fewer.
    """
    generator = random.Random(rendering.few_shot_seed)
    chosen = generator.sample(range(len(rows)), min(num_shots, len(rows)))
    return [render_row(rendering, rows[index]) for index in chosen]


def end_token_id(tokenizer: PreTrainedTokenizerBase, kind: RenderingKind) -> int | None:
    """The token that ends an answer: the turn's end in chat, the tokenizer's end token otherwise; None without one."""
    if kind != "plain":
        return chat_format(tokenizer).turn_end_id
    end: int | None = tokenizer.eos_token_id
    return end


def target_ids_of(tokenizer: PreTrainedTokenizerBase, kind: RenderingKind, target: str) -> list[int]:
    """Ids of an answer: tokenised alone, its end token last."""
    ids = list(tokenizer(target, add_special_tokens=False).input_ids)
    end = end_token_id(tokenizer, kind)
    return ids if end is None else [*ids, end]


def initialisation_ids(
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering,
    rows: Sequence[Mapping[str, str]],
    num_virtual_tokens: int,
    *,
    has_encoder: bool = False,
) -> list[int]:
    """The text that a prefix starts from, as exactly `num_virtual_tokens` ids.

    The instruction with the default special tokens and a blank line, as the written baseline has it, then the training
    rows as they are trained on, from the first one again where they are too few. A start token that the tokenizer puts
    before every text stands only at the very front. For an encoder, which reads all of it as one text, without the end
    tokens in between.

    Args:
        tokenizer: Tokenizer of the base.
        rendering: Template, target, instruction and kind.
        rows: The training part.
        num_virtual_tokens: Length P of the prefix.
        has_encoder: Whether an encoder reads it.

    Raises:
        InvalidRecipeError: There is neither an instruction nor a row.
    """
    ids: list[int] = list(tokenizer(rendering.instruction + BLANK_LINE).input_ids) if rendering.instruction else []
    if not ids and not rows:
        raise InvalidRecipeError(
            "There is neither an instruction nor a row to start the prefix from. Write an instruction, or choose "
            "init 'random'."
        )
    pieces = [_row_ids(tokenizer, rendering, row, has_encoder) for row in rows[:num_virtual_tokens]] or [list(ids)]
    if has_encoder:
        end = tokenizer.eos_token_id
        ids, *pieces = [[each for each in piece if each != end] or piece for piece in (ids, *pieces)]
    start_ids = list(tokenizer("").input_ids[:1])
    for piece in cycle(pieces):
        if len(ids) >= num_virtual_tokens:
            break
        has_start = bool(start_ids) and piece[:1] == start_ids
        ids.extend(piece[1:] if ids and has_start else piece)
    return ids[:num_virtual_tokens]


def check_context(
    num_prompt_tokens: int, *, num_target_tokens: int, num_virtual_tokens: int, context_length: int | None
) -> None:
    """Refuses what is longer than the model's context, with the numbers.

    Args:
        num_prompt_tokens: Tokens of the prompt.
        num_target_tokens: Tokens of the answer, its end token included; for a prompt in use, what it needs at least.
        num_virtual_tokens: Length P of the prefix; 0 without one.
        context_length: Positions that the model has; None where it names no limit.

    Raises:
        ContextOverflowError: They do not fit.
    """
    needed = num_prompt_tokens + num_target_tokens + num_virtual_tokens
    if context_length is not None and needed > context_length:
        raise ContextOverflowError(
            f"The prompt has {num_prompt_tokens:,} tokens, the answer takes {num_target_tokens:,} and the prefix "
            f"{num_virtual_tokens:,}: {needed:,} together, and the model's context holds {context_length:,}. "
            "Shorten the prompt or take a shorter prefix."
        )


def _row_ids(
    tokenizer: PreTrainedTokenizerBase, rendering: Rendering, row: Mapping[str, str], has_encoder: bool
) -> list[int]:
    example = encode_example(tokenizer, rendering, row, has_encoder=has_encoder)
    return [*example.prompt_ids, *example.target_ids]
