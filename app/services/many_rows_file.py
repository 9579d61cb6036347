"""A table of held-out rows as a CSV file, kept for an hour under a number that nobody guesses."""

import csv
import io
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from app.context import AppContext
from app.services.csv_rows import inert
from app.services.dataset_files import sweep_uploads
from app.services.dataset_order import work_folder
from app.services.many_rows import ManyRows
from storage.disk import refusing_full_disk
from storage.errors import NotFoundError

FILE_NAME = "held-out-rows.csv"
KEY = re.compile(r"[0-9a-f]{32}")


def keep(context: AppContext, table: ManyRows, titles: Sequence[str]) -> str:
    """Writes the rows that are answered; what spreadsheets take for formulas is made inert.

    Args:
        context: The open stores.
        table: The rows.
        titles: Of the columns.

    Returns:
        The key that `find` takes.

    Raises:
        DiskFullError: There is no room for it.
    """
    folder = work_folder(context)
    sweep_uploads(folder)
    key = secrets.token_hex(16)
    kept = folder / f"rows-{key}"
    with refusing_full_disk("keeping the rows"):
        kept.mkdir(mode=0o700)
        (kept / FILE_NAME).write_bytes(as_csv(table, titles))
    return key


def find(context: AppContext, key: str) -> Path:
    """Where the file of a key lies.

    Raises:
        NotFoundError: It is not kept, or not any more.
    """
    path = work_folder(context) / f"rows-{key}" / FILE_NAME
    if not KEY.fullmatch(key) or not path.is_file():
        raise NotFoundError("These rows are kept for an hour only. Have them answered again.")
    return path


def as_csv(table: ManyRows, titles: Sequence[str]) -> bytes:
    """The rows with prompt, expected answer, and answer and score of each column."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    pairs = [name for title in titles for name in (title, f"{title}: {table.metric}")]
    writer.writerow(map(inert, ["row", "prompt", "expected", *pairs]))
    scores = table.scores()
    for row in table.answered:
        told = zip(row.answers or [], scores[row.number], strict=True)
        cells = [cell for answer, score in told for cell in (answer, f"{score:.4f}")]
        writer.writerow(map(inert, [str(row.number), row.prompt, row.expected, *cells]))
    return text.getvalue().encode()
