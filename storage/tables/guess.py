"""Guesses which column is the answer, how the others make a prompt, and what the task is in plain words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.tables.column_names import INPUT_NAMES, LABEL_NAMES, TARGET_NAMES, simple

Row = dict[str, str]
Distinct = Callable[[str, int], list[str] | None]

MESSAGES = "messages"
CHAT_MAPPING = {"template": f"{{{MESSAGES}}}", "target": MESSAGES, "rendering": "chat"}
"""Conversations are prompt and answer in one; `worker.engine.conversations` takes them apart."""

MAX_CLASSES_NAMED = 20
MAX_CLASS_CHARACTERS = 40
MAX_PROMPT_COLUMNS = 4
INDEX_LIKE = re.compile(r"(unnamed|index|level_\d+|.*_?id)$", re.IGNORECASE)
IDENTIFIER = re.compile(r"[\w./:+-]*\d[\w./:+-]*")

WHOLE_TASKS: dict[tuple[str, str], str] = {
    ("mr", "ref"): "Put the data into words.",
    ("complex_sentence", "simple_sentences"): "Rewrite the sentence as simpler sentences.",
    ("article", "highlights"): "Summarise the article.",
}
TARGET_TASKS = {
    "summary": "Summarise the text.",
    "translation": "Translate the text.",
    "paraphrase": "Say the same in other words.",
    "simplified": "Rewrite the text in simpler words.",
    "sql": "Write the SQL query that answers the question.",
}
ASKING_NAMES = {"instruction", "prompt", "question"}
"""Columns that ask for something; what answers them is a text rather than a class."""
GENERIC_NOUNS = {"text", "sentence", "message", "review", "tweet", "comment", "email", "utterance", "question", "post"}


@dataclass(frozen=True)
class ColumnView:
    """What a sample says about a column.

    Attributes:
        name: Its name.
        filled: Share of cells that are not empty.
        distinct: Number of different cells.
        mean_characters: Mean length of the cells that are not empty.
        is_identifier: Whether its cells only tell rows apart.
    """

    name: str
    filled: float
    distinct: int
    mean_characters: float
    is_identifier: bool

    @property
    def can_stand_in_template(self) -> bool:
        """Whether `{name}` can be told from the braces around it."""
        return "{" not in self.name and "}" not in self.name


def is_chat(columns: Sequence[str], sample: Sequence[Row]) -> bool:
    """Whether the rows are conversations, as `storage.tables.conversations` writes them."""
    if columns[0] != MESSAGES:
        return False
    # Conversations in which the assistant answers nothing are empty cells, and may be all that there is.
    first = next((row[MESSAGES] for row in sample if row[MESSAGES]), None)
    return first is None or first.startswith('[{"role": ')


def view_columns(columns: Sequence[str], sample: Sequence[Row]) -> list[ColumnView]:
    """Looks at every column of a sample of rows."""
    views = []
    for name in columns:
        cells = [row[name] for row in sample]
        filled = [cell for cell in cells if cell.strip()]
        distinct = len(set(filled))
        is_unique = len(filled) > 1 and distinct > 0.95 * len(filled)
        looks = is_unique and all(IDENTIFIER.fullmatch(cell) for cell in filled)
        views.append(
            ColumnView(
                name=name,
                filled=len(filled) / max(1, len(cells)),
                distinct=distinct,
                mean_characters=sum(map(len, filled)) / max(1, len(filled)),
                is_identifier=looks or bool(INDEX_LIKE.fullmatch(simple(name))),
            )
        )
    return views


def guess_mapping(columns: Sequence[str], sample: Sequence[Row], distinct: Distinct) -> dict[str, Any]:
    """A mapping to start from, which the user sees and may change.

    Args:
        columns: Names of the columns.
        sample: Rows from several places of the training part.
        distinct: Gives the different cells of a column over all rows, or None where they are more than its second
            argument.

    Returns:
        `template`, `target`, `instruction`, `validation_fraction`, `seed` and `rendering`.
    """
    if is_chat(columns, sample):
        return {**CHAT_MAPPING, "instruction": "", "validation_fraction": 0.1, "seed": 0}
    views = view_columns(columns, sample)
    target = _guess_target(views, len(sample))
    prompt = _guess_prompt(views, target)
    return {
        "template": _template(prompt),
        "target": target.name,
        "instruction": _instruction(prompt, target, distinct),
        "validation_fraction": 0.1,
        "seed": 0,
        "rendering": "auto",
    }


def _guess_target(views: Sequence[ColumnView], num_rows: int) -> ColumnView:
    useful = [view for view in views if view.filled > 0] or list(views)
    for name in TARGET_NAMES:
        for view in useful:
            if simple(view.name) == name and not (view.is_identifier and len(useful) > 2):
                return view
    endings = tuple(f"_{name}" for name in (*LABEL_NAMES, "answer", "output", "response", "summary"))
    for view in useful:
        if simple(view.name).endswith(endings):
            return view
    # A last column called `sentence` behind one that no input is called is what should be written of it.
    is_generic = [simple(view.name) in GENERIC_NOUNS and view is useful[-1] and len(useful) > 1 for view in useful]
    free = [
        view
        for view, is_last_noun in zip(useful, is_generic, strict=True)
        if not view.is_identifier and (is_last_noun or simple(view.name) not in INPUT_NAMES)
    ]
    classes = [view for view in free if _is_class(view, num_rows)]
    if free and any(simple(view.name) in ASKING_NAMES for view in useful):
        return max(free, key=lambda view: view.mean_characters)
    if classes:
        return min(classes, key=lambda view: (-round(view.filled, 1), view.distinct))
    return (free or useful)[-1]


def _is_class(view: ColumnView, num_rows: int) -> bool:
    """Whether its cells are a few short words that come again and again."""
    is_few = 2 <= view.distinct <= max(2, min(200, 0.2 * num_rows))
    return is_few and view.mean_characters <= MAX_CLASS_CHARACTERS and view.filled > 0.5


def _guess_prompt(views: Sequence[ColumnView], target: ColumnView) -> list[ColumnView]:
    others = [view for view in views if view is not target and view.can_stand_in_template and view.filled > 0]
    # A part of the answer, or the record that it is a part of, would give the answer away.
    others = [
        view
        for view in others
        if not view.name.startswith(f"{target.name}.") and not target.name.startswith(f"{view.name}.")
    ]
    named = sorted(
        (view for view in others if simple(view.name) in INPUT_NAMES),
        key=lambda view: INPUT_NAMES.index(simple(view.name)),
    )
    if named:
        return named[:MAX_PROMPT_COLUMNS]
    telling = [view for view in others if not view.is_identifier and view.distinct > 1]
    longest = max((view.mean_characters for view in telling), default=0.0)
    if longest >= 40:
        # Texts beside short fields: the texts are what the task is about.
        telling = [view for view in telling if view.mean_characters >= 0.5 * longest][:1]
    insertable = [view for view in views if view is not target and view.can_stand_in_template]
    return (telling or others or insertable)[:MAX_PROMPT_COLUMNS]


def _template(prompt: Sequence[ColumnView]) -> str:
    names = [view.name for view in prompt]
    if len(names) == 1:
        return f"{{{names[0]}}}"
    if [simple(name) for name in names] in (["instruction", "input"], ["instruction", "context"]):
        return f"{{{names[0]}}}\n{{{names[1]}}}"
    return "\n".join(f"{_words(name)}: {{{name}}}" for name in names)


def _words(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ").strip() or name


def _instruction(prompt: Sequence[ColumnView], target: ColumnView, distinct: Distinct) -> str:
    """The task in plain words where the table makes it plain; the empty text where it does not."""
    names = [simple(view.name) for view in prompt]
    kind = simple(target.name)
    if "instruction" in names or "system" in names:
        return ""
    if len(names) == 1 and (names[0], kind) in WHOLE_TASKS:
        return WHOLE_TASKS[names[0], kind]
    if kind in TARGET_TASKS:
        return TARGET_TASKS[kind]
    noun = names[0] if len(names) == 1 and names[0] in GENERIC_NOUNS else "text"
    if kind in LABEL_NAMES or target.mean_characters <= MAX_CLASS_CHARACTERS:
        classes = [value for value in distinct(target.name, MAX_CLASSES_NAMED) or [] if value.strip()]
        if len(classes) >= 2 and all(len(value) <= MAX_CLASS_CHARACTERS for value in classes):
            return f"Classify the {noun} as one of: {', '.join(sorted(classes))}."
    if kind in LABEL_NAMES and target.mean_characters <= MAX_CLASS_CHARACTERS:
        return f"Name the {_words(target.name)} of the {noun}."
    if kind in ("answer", "answers", "correct", "solution"):
        around = next((name for name in names if name in ("passage", "context", "story", "article", "document")), None)
        return f"Answer the question from the {around}." if around else "Answer the question."
    return ""
