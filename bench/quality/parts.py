"""Training, validation and test rows of a task: drawn once by a fixed seed, the same for every method and seed."""

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bench.quality.tasks import Row, TaskDataError, TaskSpec, read_part
from worker.engine.example import Example
from worker.engine.rendering import Rendering, render_prompt
from worker.engine.tokens import choose_rendering_kind, encode_example

DATA_SEED = 20261122
"""Seed of the drawn rows; another one is another benchmark."""

MIN_SHARE = 0.75
"""Of the rows that are asked for; e2e_nlg has 118 distinct test prompts."""


@dataclass(frozen=True)
class PartSizes:
    """Rows of each part at most; a task may have fewer distinct prompts, down to `MIN_SHARE` of that."""

    train: int = 400
    validation: int = 64
    test: int = 150


@dataclass(frozen=True)
class TaskData:
    """A task ready for every method.

    Attributes:
        spec: What it is.
        rendering: How rows become prompts, with its kind decided by the base.
        train_rows: As text, for what starts from examples.
        train: The same rows as token ids.
        validation: Rows that choose the best state.
        test: Frozen rows that nothing is chosen by; each prompt once.
        references: The answers of the test rows.
        sha256: Over the text of all parts.
    """

    spec: TaskSpec
    rendering: Rendering
    train_rows: list[Row]
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    references: list[str]
    sha256: str


def prepare(folder: Path, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, sizes: PartSizes) -> TaskData:
    """Draws and encodes the parts of a task; no prompt stands in two of them.

    Args:
        folder: Holds a folder for each task.
        spec: The task.
        tokenizer: Of the base.
        sizes: Rows of each part.

    Raises:
        TaskDataError: A file is absent or has too few rows.
    """
    seen: set[str] = set()
    test = _draw(folder, spec, "test", sizes.test, seen, is_distinct=True)
    validation = _draw(folder, spec, "validation", sizes.validation, seen, is_distinct=True)
    train = _draw(folder, spec, "train", sizes.train, seen, is_distinct=False)
    rendering = Rendering("plain", spec.template, spec.target, spec.instruction)
    rendering = replace(rendering, kind=choose_rendering_kind(tokenizer))
    return TaskData(
        spec=spec,
        rendering=rendering,
        train_rows=train,
        train=[encode_example(tokenizer, rendering, row) for row in train],
        validation=[encode_example(tokenizer, rendering, row) for row in validation],
        test=[encode_example(tokenizer, rendering, row) for row in test],
        references=[row[spec.target] for row in test],
        sha256=_hash(train, validation, test),
    )


def _draw(folder: Path, spec: TaskSpec, part: str, count: int, seen: set[str], *, is_distinct: bool) -> list[Row]:
    """Rows whose prompts no earlier part holds; adds theirs to `seen`."""
    rows = read_part(folder, spec, part)
    chosen: list[Row] = []
    prompts: set[str] = set()
    for row in random.Random(f"{DATA_SEED} {spec.name} {part}").sample(rows, len(rows)):
        prompt = render_prompt(spec.template, row)
        if prompt in seen or (is_distinct and prompt in prompts):
            continue
        prompts.add(prompt)
        chosen.append(row)
        if len(chosen) == count:
            break
    if len(chosen) < MIN_SHARE * count:
        raise TaskDataError(
            f"{spec.name} has {len(chosen)} usable {part} rows; expected about {count}. Ask for fewer rows."
        )
    seen |= prompts
    return chosen


def _hash(*parts: Iterable[Row]) -> str:
    text = json.dumps([list(part) for part in parts], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
