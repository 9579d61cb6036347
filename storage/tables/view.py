"""How a training sees a stored table: a batch of rows at a time, each with its prompt and its answer."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

BATCH_ROWS = 2048
CONVERSATION = "messages"
"""The column that holds a whole conversation as JSON; where it is the answer, the assistant's turns are."""

Cells = list[str]


@dataclass(frozen=True)
class View:
    """Which columns a training reads.

    Attributes:
        columns: All columns, in the order of the table.
        prompt: Those that the template names.
        target: The one with the answer.
        template_characters: Characters of the template that are no placeholder.
    """

    columns: tuple[str, ...]
    prompt: tuple[str, ...]
    target: str
    template_characters: int = 0

    @property
    def is_conversation(self) -> bool:
        """Whether each row is a conversation rather than a prompt and an answer."""
        return self.target == CONVERSATION and CONVERSATION in self.prompt

    @property
    def used(self) -> tuple[str, ...]:
        """Columns that a training reads, each once."""
        return tuple(dict.fromkeys((*self.prompt, self.target)))

    def place(self, name: str) -> int:
        """Where a column stands."""
        return self.columns.index(name)

    def split(self, batch: Sequence[Cells]) -> tuple[list[tuple[str, ...]], Cells]:
        """Prompts (their cells) and answers of a batch of columns."""
        targets = list(batch[self.place(self.target)])
        if self.is_conversation:
            turns = [_turns(text) for text in targets]
            return [(asked,) for asked, _ in turns], [answered for _, answered in turns]
        return list(zip(*(batch[self.place(name)] for name in self.prompt), strict=True)), targets


def iterate_columns(path: Path, columns: Sequence[str]) -> Iterator[list[Cells]]:
    """The cells of each column, a batch of rows at a time, in the order of the file."""
    # Reading ahead would keep the whole file in memory by and by.
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
            yield [["" if cell is None else cell for cell in batch.column(name).to_pylist()] for name in columns]


def count_stored_rows(path: Path) -> int:
    """Rows of a stored table."""
    return int(pq.read_metadata(path).num_rows)


def _turns(text: str) -> tuple[str, str]:
    """What others say in a conversation, and what the assistant says."""
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return text, ""
    asked: list[str] = []
    answered: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict):
            said = str(message.get("content") or "")
            (answered if message.get("role") == "assistant" else asked).append(said)
    return "\n".join(asked), "\n".join(answered)
