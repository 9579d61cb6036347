"""Columns of a comparison: a model, what stands in front of its prompt, and how strong its prefix is."""

import json
from collections.abc import Sequence
from typing import Any

Column = dict[str, Any]
"""As `/v1/compare` takes it: `model`, `context` and, where it is not all of it, `strength` in percent."""

CONTEXTS = {"none": "", "instruction": "with the written instruction", "few-shot": "with examples in the prompt"}
FULL_STRENGTH = 100
JOB = "job:"
"""Begins the model id of a training's state: `job:ID@STEP`."""


def column_of(model: str, context: str = "none", *, strength: float = FULL_STRENGTH) -> Column:
    """A column as the wire has it.

    Args:
        model: Name of a base, of a prefix, or of a kept state of one.
        context: `none`, `instruction` or `few-shot`.
        strength: Of the prefix in percent; all of it is left out.
    """
    column: Column = {"model": model, "context": context}
    if strength == FULL_STRENGTH:
        return column
    return {**column, "strength": int(strength) if strength == int(strength) else strength}


def key_of(column: Column) -> str:
    """One text for a column, the same for every way in which it may be written."""
    told = column_of(column["model"], column.get("context") or "none", strength=column.get("strength", FULL_STRENGTH))
    return json.dumps(told, ensure_ascii=False, sort_keys=True)


def column_of_key(key: str) -> Column:
    """The column that a text stands for."""
    column: Column = json.loads(key)
    return column


def title_of(column: Column, names: dict[str, str] | None = None) -> str:
    """What heads the column: its model, in words where it is a kept state.

    Args:
        column: The column.
        names: Names of models that have none of their own, such as `job:ID`.
    """
    stem, step = state_of(column["model"])
    name = (names or {}).get(stem, stem)
    return f"{name}, step {step:,}" if step is not None else name


def note_of(column: Column, base_model: str) -> str:
    """What the column is, in a few words."""
    context = CONTEXTS.get(column.get("context") or "none", "")
    if column["model"] == base_model:
        return f"the base model {context}" if context else "the base model, untouched"
    strength = column.get("strength", FULL_STRENGTH)
    words = ["the same base with this prefix", *([context] if context else [])]
    return ", ".join([*words, *([f"at {strength:g} %"] if strength != FULL_STRENGTH else [])])


def label_of(column: Column, base_model: str, names: dict[str, str] | None = None) -> str:
    """Title and what makes the column special, in one line of plain text."""
    context = CONTEXTS.get(column.get("context") or "none", "")
    strength = column.get("strength", FULL_STRENGTH)
    is_base = column["model"] == base_model
    parts = [
        title_of(column, names),
        context or ("untouched" if is_base else ""),
        f"at {strength:g} %" if strength != FULL_STRENGTH and not is_base else "",
    ]
    return ", ".join(part for part in parts if part)


def state_of(model: str) -> tuple[str, int | None]:
    """The name and the step of a kept state `NAME@STEP`; no step where the name has none."""
    stem, at, step = model.rpartition("@")
    return (stem, int(step)) if at and step.isdecimal() else (model, None)


def is_prefixed(column: Column, base_model: str) -> bool:
    """Whether a prefix takes part."""
    return bool(column["model"] != base_model)


def labels(columns: Sequence[Column], base_model: str) -> list[str]:
    """`label_of` of each."""
    return [label_of(column, base_model) for column in columns]
