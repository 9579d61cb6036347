"""What the first step shows of a dataset: how it was read, samples, findings, its first rows."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup
from app.ui.visible import revealed

MAX_SHOWN = 600


def read_line(dataset: dict[str, Any]) -> str:
    """What was read, what was left out in reading it, and how its rows are counted."""
    detected = dataset["detected"]
    words = [
        markup.count(dataset["num_rows"], "row"),
        markup.count(len(dataset["columns"]), "column"),
        str(detected.get("description") or detected.get("format") or "").strip(),
    ]
    split = f"{dataset['num_train']:,} to train on, {dataset['num_validation']:,} held out to check"
    read = f"{dataset['name']}: {', '.join(word for word in words if word)}; {split}."
    notes = [note for file in detected.get("files") or [detected] for note in file.get("notes", [])]
    told = " ".join([read, *dict.fromkeys(notes), _counting(detected)]).strip()
    return markup.notice(told, "good")


def _counting(detected: dict[str, Any]) -> str:
    """Which row is row 1, since spreadsheets count the header and empty rows too; nothing for files without either."""
    if detected.get("format") not in ("csv", "tsv", "xlsx"):
        return ""
    first = detected.get("first_row", 2 if detected.get("header") else 1)
    return f"Findings count rows of data alone, without header and empty rows: row 1 is row {first} of a spreadsheet."


def chips(columns: Sequence[str]) -> str:
    """One button a column; it writes its placeholder into the prompt."""
    buttons = "".join(
        '<button type="button" class="ps-action" data-page-action="insert" '
        f'data-text="{markup.escape("{" + name + "}")}">{markup.isolated("{" + name + "}")}</button>'
        for name in columns
    )
    return f'<div class="ps-chips" aria-label="Insert a column into the prompt">{buttons}</div>'


def samples(rendered: Sequence[dict[str, Any]], *, reveal: bool = False) -> str:
    """Rendered prompts with their answers marked, as the model will read them.

    Args:
        rendered: `prompt`, `target` and `row` of each.
        reveal: Whether spaces, line ends and invisible characters are shown.
    """
    if not rendered:
        return ""
    shown = _revealed if reveal else _clipped
    items = "".join(
        f'<div class="ps-sample"><small>Row {sample.get("row", "?")}</small>{shown(sample["prompt"])} '
        f"<mark>{shown(sample['target'])}</mark></div>"
        for sample in rendered
    )
    return f'<p class="ps-title">What the model will read, and the answer it should give</p>{items}'


def reading(name: str, size_bytes: int) -> str:
    """What is said while a file is read and looked through."""
    return markup.notice(f"Reading {name} ({markup.file_size(size_bytes)}) and looking through its rows …")


def preview(dataset: dict[str, Any]) -> str:
    """The first rows as a table."""
    columns = dataset["columns"]
    rows = [
        [f'<div class="ps-clip">{_clipped(row.get(name, ""))}</div>' for name in columns] for row in dataset["preview"]
    ]
    return markup.table(columns, rows, f"First rows of {dataset['name']}")


def example_cards(examples: Sequence[tuple[str, str, str]]) -> str:
    """Data sets to try: (key, title, sentence) each."""
    if not examples:
        return ""
    cards = "".join(
        markup.card("example", key, title, body=f"<small>{markup.escape(sentence)}</small>")
        for key, title, sentence in examples
    )
    return f'<p class="ps-title">No data at hand? Try one of these</p><div class="ps-cards">{cards}</div>'


def _clipped(text: str) -> str:
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + " …"
    return markup.isolated(shown)


def _revealed(text: str) -> str:
    shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN]
    return f"<bdi>{revealed(shown)}</bdi>{'' if shown == text else ' …'}"
