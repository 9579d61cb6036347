"""The six tasks: where their rows lie, how a row becomes prompt and answer; knows no tokenizer and no model."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, str]

NUM_INTENTS = 12
"""Intents of banking77 that are kept, the most frequent ones: a base of five million parameters learns no 77."""

MAX_SENTENCE_CHARACTERS = 120
"""Longest sentence of wiki_split that is kept, so that the task fits the time of a cell."""


class TaskDataError(Exception):
    """The folder of the tasks is not there, or a part has too few rows."""


@dataclass(frozen=True)
class TaskSpec:
    """One task, as a person would describe it on the page.

    Attributes:
        name: Folder of its rows.
        template: The prompt, with `{column}` where a cell stands.
        target: The column with the answer.
        instruction: What to do, in plain words; every method that starts from text starts from this one.
        kind: `labels` where answers are few and repeat, `text` otherwise.
        convert: From the rows of a file to those that are used; sees the training file's rows second.
    """

    name: str
    template: str
    target: str
    instruction: str
    kind: str
    convert: Callable[[list[dict[str, Any]], list[dict[str, Any]]], Iterable[Row]]


def _as_they_are(rows: list[dict[str, Any]], train: list[dict[str, Any]]) -> Iterable[Row]:
    return rows


def _frequent_intents(rows: list[dict[str, Any]], train: list[dict[str, Any]]) -> Iterable[Row]:
    counts = Counter(row["category"] for row in train)
    kept = {name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:NUM_INTENTS]}
    for row in rows:
        if row["category"] in kept:
            yield {"text": row["text"], "intent": row["category"].replace("_", " ")}


def _slots_as_text(rows: list[dict[str, Any]], train: list[dict[str, Any]]) -> Iterable[Row]:
    for row in rows:
        slots = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in row["slots"].items())
        yield {"message": row["message"], "requested": row["requested"] or "nothing", "slots": slots or "none"}


def _short_sentences(rows: list[dict[str, Any]], train: list[dict[str, Any]]) -> Iterable[Row]:
    return (row for row in rows if len(row["complex_sentence"]) <= MAX_SENTENCE_CHARACTERS)


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "e2e_nlg",
            "{mr}",
            "ref",
            "Write a sentence that describes the restaurant with all of the given facts.",
            "text",
            _as_they_are,
        ),
        TaskSpec(
            "sms_spam", "{message}", "label", "Say whether the text message is spam or ham.", "labels", _as_they_are
        ),
        TaskSpec(
            "rt_polarity",
            "{text}",
            "sentiment",
            "Say whether the review of the film is positive or negative.",
            "labels",
            _as_they_are,
        ),
        TaskSpec(
            "banking77", "{text}", "intent", "Name what the bank's customer asks about.", "labels", _frequent_intents
        ),
        TaskSpec(
            "restaurant8k",
            "Asked for: {requested}. Message: {message}",
            "slots",
            "List the date, time, people and names that the message gives for a booking, or none.",
            "text",
            _slots_as_text,
        ),
        TaskSpec(
            "wiki_split",
            "{complex_sentence}",
            "simple_sentences",
            "Split the long sentence into two short ones that say the same.",
            "text",
            _short_sentences,
        ),
    )
}
"""Chosen for their breadth before any result was seen: two of text, three of labels, one of extraction."""


def read_part(folder: Path, spec: TaskSpec, part: str) -> list[Row]:
    """All usable rows of one part of a task as its files hold it.

    Args:
        folder: Holds a folder for each task.
        spec: The task.
        part: `train`, `validation` or `test`.

    Raises:
        TaskDataError: There is no such file.
    """
    rows = _read_file(folder, spec.name, part)
    train = rows if part == "train" else _read_file(folder, spec.name, "train")
    return list(spec.convert(rows, train))


def _read_file(folder: Path, name: str, part: str) -> list[dict[str, Any]]:
    path = next((folder / name).glob(f"{part}.*"), None)
    if path is None:
        raise TaskDataError(
            f"There is no file {part}.* in {folder / name}; expected the task's rows as csv, tsv or jsonl. "
            "Name the folder that holds the tasks with --data."
        )
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        if path.suffix == ".tsv":
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))
