"""The example data sets that the page offers: files that come with the project, and how they are asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """A data set to try without having one.

    Attributes:
        key: Short name in addresses and tests.
        title: Name on the page, and of the dataset made from it.
        sentence: What it shows, in one sentence.
        files: The training and the validation table.
        mapping: Template, target column, instruction, split and rendering, as a dataset keeps them.
    """

    key: str
    title: str
    sentence: str
    files: tuple[Path, ...]
    mapping: dict[str, Any]


def _example(key: str, title: str, sentence: str, *, template: str, target: str, instruction: str) -> Example:
    return Example(
        key=key,
        title=title,
        sentence=sentence,
        files=(FOLDER / f"{key}_train.csv", FOLDER / f"{key}_validation.csv"),
        mapping={
            "template": template,
            "target": target,
            "instruction": instruction,
            "validation_fraction": 0.1,
            "seed": 0,
            "rendering": "plain",
        },
    )


EXAMPLES: tuple[Example, ...] = (
    _example(
        "support",
        "Support messages",
        "Sort messages from customers into five queues.",
        template="Message: {message}\nQueue:",
        target="queue",
        instruction="Say which queue the message belongs to: delivery, payment, return, account or repair.",
    ),
    _example(
        "events",
        "Event notices",
        "Turn a row of a table into a sentence for the notice board.",
        template="Event: {event}. Place: {place}. Day: {day}. Time: {time}. Price: {price}.\nNotice:",
        target="notice",
        instruction="Write a short notice that names the event, the place, the day, the time and the price.",
    ),
    _example(
        "letters",
        "Polite letters",
        "Rewrite a blunt note as a polite letter.",
        template="Note: {note}\nLetter:",
        target="letter",
        instruction="Rewrite the note as a polite letter with a greeting, a question and kind wishes.",
    ),
)
