"""Writes the example tables: `python -m app.examples.make`. The same seed gives the same files, byte for byte."""

import csv
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.examples import events, letters, support_phrases

SEED = 7
NUM_ROWS = {
    "support": {"train": 360, "validation": 120},
    "events": {"train": 360, "validation": 90},
    "letters": {"train": 360, "validation": 90},
}
COLUMNS: dict[str, Sequence[str]] = {
    "support": ("message", "queue"),
    "events": events.COLUMNS,
    "letters": letters.COLUMNS,
}

Row = dict[str, str]


def capitalised(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def support_row(random_: random.Random, part: str, queue: str, phrase: str) -> Row:
    """A message made of an opening, a phrase of the queue and a closing."""
    opening = random_.choice(support_phrases.OPENINGS[part])
    closing = random_.choice(support_phrases.CLOSINGS[part])
    body = phrase.format(item=random_.choice(support_phrases.ITEMS), day=random_.choice(support_phrases.DAYS))
    return {"message": capitalised(f"{opening}{body}{closing}"), "queue": queue}


def support_rows(random_: random.Random, part: str) -> Iterator[Row]:
    """Messages without end, the queues in turn, every phrase used before one comes again, none worded twice."""
    phrases = support_phrases.TRAIN if part == "train" else support_phrases.VALIDATION
    written: set[str] = set()
    while True:
        orders = [random_.sample(phrases[queue], len(phrases[queue])) for queue in phrases]
        for chosen in zip(*orders, strict=True):
            for queue, phrase in zip(phrases, chosen, strict=True):
                row = support_row(random_, part, queue, phrase)
                while row["message"] in written:
                    row = support_row(random_, part, queue, phrase)
                written.add(row["message"])
                yield row


def event_rows(random_: random.Random, part: str) -> Iterator[Row]:
    """Events without end, each pair of event and place used before one comes again."""
    pairs = events.pairs(held_out=part == "validation")
    days, hours, prices = events.choices()
    while True:
        for event, place in random_.sample(pairs, len(pairs)):
            row = events.Event(event, place, random_.choice(days), random_.choice(hours), random_.choice(prices))
            yield {**vars(row), "notice": row.notice()}


def letter_rows(random_: random.Random, part: str) -> Iterator[Row]:
    """Notes without end, each action used before one comes again."""
    actions = letters.actions(held_out=part == "validation")
    while True:
        for action in random_.sample(actions, len(actions)):
            to, sender = random_.sample(letters.NAMES, 2)
            when = random_.choice(letters.TIMES)
            note = random_.choice(letters.NOTES).format(to=to, action=action, when=when, sender=sender)
            yield {"note": note, "letter": letters.letter(to, action, when, sender)}


SOURCES = {"support": support_rows, "events": event_rows, "letters": letter_rows}


def rows(name: str, part: str) -> list[Row]:
    """The rows of one file, none twice.

    Args:
        name: `support`, `events` or `letters`.
        part: `train` or `validation`.
    """
    unique: dict[tuple[str, ...], Row] = {}
    for row in SOURCES[name](random.Random(f"{SEED} {name} {part}"), part):
        unique.setdefault(tuple(row.values()), row)
        if len(unique) == NUM_ROWS[name][part]:
            break
    return list(unique.values())


def as_csv(name: str, part: str) -> str:
    """The text of one file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[name], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(name, part))
    return text.getvalue()


def main(folder: Path = Path(__file__).parent) -> None:
    """Writes all files into a folder."""
    for name, parts in NUM_ROWS.items():
        for part in parts:
            (folder / f"{name}_{part}.csv").write_text(as_csv(name, part), encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
