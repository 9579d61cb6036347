"""The answered table: the rows that were uploaded, in their order, with one column more."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.answerings import free_column
from storage.disk import DiskFullError, refusing_full_disk
from storage.tables.view import iterate_columns
from worker.answering.journal import Journal
from worker.answering.questions import Answer

NOTE_COLUMN = "answer_note"
NOT_REACHED = "Not answered: the job was stopped before this row."

MAX_DISTINCT = 100
MIN_ROWS_PER_ANSWER = 4


@dataclass
class Report:
    """What came of the rows.

    Attributes:
        answered: Rows with an answer.
        left_out: Rows that could not be asked.
        not_reached: Rows that the job did not come to.
        cut: Rows whose answer ends where the context does.
        tokens: Tokens that were written.
        counts: How often each answer was given; no more kinds of answers than are worth telling.
    """

    answered: int = 0
    left_out: int = 0
    not_reached: int = 0
    cut: int = 0
    tokens: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer | None) -> None:
        """Counts a row."""
        if answer is None:
            self.not_reached += 1
            return
        self.tokens += answer.num_tokens
        if not answer.num_tokens:
            self.left_out += 1
            return
        self.answered += 1
        self.cut += bool(answer.note)
        if answer.text in self.counts or len(self.counts) <= MAX_DISTINCT:
            self.counts[answer.text] += 1

    def to_dict(self, *, is_labels: bool) -> dict[str, Any]:
        """As the job's metrics hold it; counts only where answers repeat.

        Args:
            is_labels: Whether the prefix was trained to answer with labels.
        """
        told: dict[str, Any] = {
            name: getattr(self, name) for name in ("answered", "left_out", "not_reached", "cut", "tokens")
        }
        is_few = len(self.counts) <= MAX_DISTINCT
        if is_few and (is_labels or self.answered >= MIN_ROWS_PER_ANSWER * len(self.counts)):
            told["counts"] = [[text, count] for text, count in self.counts.most_common()]
        return told


def write_answered(table: Path, journal: Journal, target: Path, answer_column: str) -> tuple[list[str], Report]:
    """Writes the answered table.

    Args:
        table: The uploaded table as Parquet.
        journal: The answers; a row without one is told as not reached.
        target: The file to write.
        answer_column: Name of the new column; a second one tells why answers are missing, where some are.

    Returns:
        The columns of the new table, and what came of its rows.

    Raises:
        DiskFullError: There is no room.
    """
    columns = list(pq.read_schema(table).names)
    report = Report()
    has_notes = False
    for answers in _answers_of(table, journal):
        for answer in answers:
            report.add(answer)
            has_notes = has_notes or answer is None or bool(answer.note)
    added = [answer_column]
    if has_notes:
        added.append(free_column([*columns, answer_column], NOTE_COLUMN))
    schema = pa.schema([(name, pa.string()) for name in [*columns, *added]])
    try:
        with refusing_full_disk("writing the answers"), pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for cells in _cells_of(table, columns, journal):
                arrays = [pa.array(column, pa.string()) for column in cells[: len(schema)]]
                writer.write_table(pa.table(arrays, schema=schema))
    except DiskFullError:
        target.unlink(missing_ok=True)
        raise
    return schema.names, report


def _cells_of(table: Path, columns: Sequence[str], journal: Journal) -> Iterator[list[list[str]]]:
    """The columns of the table with answers and notes behind them, a batch of rows after the other."""
    start = 0
    for batch in iterate_columns(table, columns):
        stop = start + len(batch[0])
        answers = journal.read(start, stop)
        texts = ["" if answer is None else answer.text for answer in answers]
        notes = [NOT_REACHED if answer is None else answer.note for answer in answers]
        yield [*batch, texts, notes]
        start = stop


def _answers_of(table: Path, journal: Journal) -> Iterator[list[Answer | None]]:
    """The answers of a few rows after the other."""
    num_rows, step = pq.read_metadata(table).num_rows, 2048
    for start in range(0, num_rows, step):
        yield journal.read(start, min(start + step, num_rows))
