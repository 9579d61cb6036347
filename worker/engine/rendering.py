"""From a row of a table to the text of its prompt and answer; knows no torch and no tokenizer."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from worker.engine.errors import EngineError

RenderingKind = Literal["plain", "chat", "conversation"]

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""A doubled brace (a literal one), or `{column}`."""


class InvalidTemplateError(EngineError):
    """The prompt template cannot be filled."""

    code = "invalid_template"


@dataclass(frozen=True)
class Rendering:
    """How rows become text, stored with every prefix so that it is used as it was trained.

    Attributes:
        kind: `chat` speaks through the base's chat template, `plain` does not; with `conversation` a row brings all
            turns itself (see `worker.engine.conversations`), and they go through the chat template too.
        template: The prompt, with `{column}` where a cell stands; `{{` and `}}` are literal braces.
        target: The column with the answer; for conversations the one with the turns.
        instruction: What the model should do, in plain words; may be empty.
        few_shot_seed: Seed by which the examples of the few-shot baseline are drawn.
    """

    kind: RenderingKind
    template: str
    target: str
    instruction: str = ""
    few_shot_seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The rendering as JSON can hold it."""
        return asdict(self)

    @property
    def uses_chat_template(self) -> bool:
        """Whether the base needs a chat template for it."""
        return self.kind != "plain"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Rendering":
        """Reads a stored rendering; keys that it does not know are left out."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


def template_columns(template: str) -> list[str]:
    """The columns that a template names, in order, each once."""
    return list(dict.fromkeys(match[1] for match in PLACEHOLDER.finditer(template) if match[1]))


def check_template(template: str, columns: Iterable[str]) -> None:
    """Refuses a template that names no column, or one that the table lacks.

    Raises:
        InvalidTemplateError: Saying which name is unknown and which there are.
    """
    names = list(columns)
    used = template_columns(template)
    unknown = [name for name in used if name not in names]
    if unknown:
        listed = ", ".join(f"{{{name}}}" for name in names)
        raise InvalidTemplateError(
            f"The prompt names {{{unknown[0]}}}, but the table has no such column; it has {listed}."
        )
    if not used:
        raise InvalidTemplateError(
            "The prompt names no column, so every row would read alike. Insert one, as in {text}."
        )


def render_prompt(template: str, row: Mapping[str, str]) -> str:
    """Fills the template with the cells of a row, each verbatim.

    A line of the template that names columns and says nothing else is left out, with the blank lines before it, where
    all of them are empty in this row: an optional input leaves no gap.

    Args:
        template: Text with `{column}` placeholders.
        row: Column name to cell text.

    Raises:
        InvalidTemplateError: The row lacks a column that the template names.
    """

    absent = next((name for name in template_columns(template) if name not in row), None)
    if absent is not None:
        raise InvalidTemplateError(f"The prompt names {{{absent}}}, but the row has no such column.")

    def fill(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else row[match[1]]

    kept = [block for block in template_blocks(template) if not block.optional or any(map(row.get, block.optional))]
    return "\n".join(PLACEHOLDER.sub(fill, block.text) for block in kept)


@dataclass(frozen=True)
class Block:
    """Some lines of a template that stay or go together.

    Attributes:
        text: The lines.
        optional: The columns of which one has to be filled for the lines to stay; none where they stay in any case.
    """

    text: str
    optional: tuple[str, ...] = ()


def template_blocks(template: str) -> list[Block]:
    """A template as blocks, joined by line breaks: a line of columns alone with the blank lines before it, or a line.

    A template of one line is one block that stays.
    """
    lines = template.split("\n")
    blocks: list[Block] = []
    blank: list[str] = []
    for line in lines:
        if not line:
            blank.append(line)
            continue
        names = [match[1] for match in PLACEHOLDER.finditer(line)]
        if len(lines) > 1 and all(names) and not PLACEHOLDER.sub("", line):
            blocks.append(Block("\n".join([*blank, line]), tuple(names)))
        else:
            blocks += [*map(Block, blank), Block(line)]
        blank = []
    return blocks + list(map(Block, blank))
