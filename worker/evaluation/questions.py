"""Which held-out rows are asked, and how each side is asked: the base in three ways, and the prefix."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from worker.engine.base import LoadedBase
from worker.engine.conversations import readable
from worker.engine.rendering import Rendering
from worker.engine.tokens import draw_few_shot, encode_example, encode_prompt, render_row

Row = Mapping[str, str]
Arm = Literal["base", "instruction", "few-shot", "prefix"]
ARMS: tuple[Arm, ...] = ("base", "instruction", "few-shot", "prefix")

MAX_ROWS = 256
MAX_ANSWER_TOKENS = 256
MAX_TOTAL_TOKENS = 4096
"""Tokens of all targets together: 256 rows with labels, fewer rows where answers are long."""
MIN_ROWS = 32


@dataclass(frozen=True)
class Question:
    """One held-out row.

    Attributes:
        prompt: As text.
        expected: The target, as text.
        prompt_ids: As the model reads it, for each side that has room for it.
        num_target_tokens: Length of the target, its end token included.
        num_examples: Examples that the few-shot prompt has room for.
    """

    prompt: str
    expected: str
    prompt_ids: dict[Arm, tuple[int, ...]]
    num_target_tokens: int
    num_examples: int = 0


def draw_questions(
    base: LoadedBase,
    rendering: Rendering,
    held_out: Sequence[Row],
    train_rows: Sequence[Row],
    *,
    num_virtual_tokens: int,
    seed: int,
) -> list[Question]:
    """Rows to compare on, in an order drawn by the seed, so that the first ones alone are a fair sample too.

    Rows of one prompt get one answer from each side, so one of them is asked: more would make the intervals too narrow.
    Rows whose prompt was trained on and rows longer than the context are not asked, nor are the few rows too long for
    a side that most rows have room for.

    Args:
        base: The frozen base.
        rendering: How rows become prompts.
        held_out: Rows of the validation or the test part.
        train_rows: The training part; the few-shot examples come from it.
        num_virtual_tokens: Length of the prefix.
        seed: Of the order.
    """
    shots = draw_few_shot(rendering, train_rows)
    seen = {render_row(rendering, row)[0] for row in train_rows}
    chosen: list[Question] = []
    for row in random.Random(seed).sample(held_out, len(held_out)):
        prompt, expected = render_row(rendering, row)
        if prompt in seen:
            continue
        seen.add(prompt)
        example = encode_example(base.tokenizer, rendering, row, has_encoder=base.geometry.has_encoder)
        num_targets = len(example.target_ids)
        if not base.geometry.fits(len(example.prompt_ids), num_targets, num_virtual_tokens):
            continue
        room = base.geometry.context_length - (0 if base.geometry.has_encoder else num_targets)
        ids, num_examples = _asked(base.tokenizer, rendering, prompt, shots, room)
        text = readable(rendering.kind, prompt)
        chosen.append(Question(text, expected.strip(), ids, num_targets, num_examples))
        if _is_enough(chosen):
            break
    usual = {arm for arm in ARMS if sum(arm in question.prompt_ids for question in chosen) * 2 > len(chosen)}
    return [question for question in chosen if usual <= question.prompt_ids.keys()]


def arms_of(questions: Sequence[Question]) -> list[Arm]:
    """The sides that can be asked every one of these questions."""
    return [arm for arm in ARMS if all(arm in question.prompt_ids for question in questions)]


def max_new_tokens(questions: Sequence[Question]) -> int:
    """Tokens after which an answer is cut: what the longest target needs, and a few more."""
    longest = max(question.num_target_tokens for question in questions)
    return min(MAX_ANSWER_TOKENS, longest + max(4, longest // 4))


def _is_enough(questions: Sequence[Question]) -> bool:
    total = sum(question.num_target_tokens for question in questions)
    return len(questions) >= MAX_ROWS or (len(questions) >= MIN_ROWS and total >= MAX_TOTAL_TOKENS)


def _asked(
    tokenizer: PreTrainedTokenizerBase,
    rendering: Rendering,
    prompt: str,
    shots: Sequence[tuple[str, str]],
    room: int,
) -> tuple[dict[Arm, tuple[int, ...]], int]:
    plain = tuple(encode_prompt(tokenizer, rendering, prompt))
    asked: dict[Arm, tuple[int, ...]] = {"base": plain, "prefix": plain}
    if rendering.instruction:
        instructed = encode_prompt(tokenizer, rendering, prompt, context="instruction")
        if len(instructed) <= room:
            asked["instruction"] = tuple(instructed)
    for count in range(len(shots), 0, -1):
        shown = encode_prompt(tokenizer, rendering, prompt, context="few-shot", few_shot=shots[:count])
        if len(shown) <= room:
            return asked | {"few-shot": tuple(shown)}, count
    return asked, 0
