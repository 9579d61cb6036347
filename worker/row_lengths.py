"""Counts the tokens of a table's rows for one base model: `python -m worker.row_lengths REQUEST.json RESULT.json`.

A process of its own, since the web role brings no tokenizer along. Rows are counted as they would be trained on. Every
row that may be longer than the context is counted; of the others an even sample, for the histograms.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from storage.doctor.report import histogram
from storage.tables.view import count_stored_rows, iterate_columns
from worker.engine.conversations import ConversationError
from worker.engine.errors import EngineError
from worker.engine.rendering import Rendering, template_columns
from worker.engine.tokens import KindWish, choose_rendering_kind
from worker.engine.training_rows import encode_row

MAX_SAMPLED = 2000
MAX_LONG_ROWS = 50_000
BUDGET_S = 60.0
SPARE_TOKENS = 16
"""A token has at least one byte, but for a few that a tokenizer adds of its own accord."""

Row = dict[str, str]


class RowMeasure:
    """Counts rows with one tokenizer.

    Args:
        tokenizer: Tokenizer of the base.
        rendering: How rows become text, its kind decided.
        has_encoder: Whether the base is an encoder-decoder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rendering: Rendering, *, has_encoder: bool) -> None:
        self._tokenizer = tokenizer
        self._rendering = rendering
        self._has_encoder = has_encoder
        self._frame = self._count_frame()

    def count(self, row: Mapping[str, str]) -> tuple[int, int]:
        """Tokens of the prompt and of the answer, its end token included; of a conversation those of its longest turn.

        Raises:
            EngineError: The template or the chat template refuses the row.
        """
        examples = [one for _, one in encode_row(self._tokenizer, self._rendering, row, has_encoder=self._has_encoder)]
        if not examples:
            return 0, 0
        longest = max(examples, key=len)
        return len(longest.prompt_ids), len(longest.target_ids)

    def at_most(self, row: Mapping[str, str]) -> int:
        """Tokens that a row has at most, without tokenising it."""
        return self._frame + sum(len(cell.encode()) for cell in row.values())

    def _count_frame(self) -> int:
        """Tokens that rows have beside their cells: the template's and the chat template's."""
        frame = len(self._rendering.template.encode()) + SPARE_TOKENS
        try:
            empty = dict.fromkeys((*template_columns(self._rendering.template), self._rendering.target), "")
            return frame + sum(self.count(empty))
        except EngineError:
            # A conversation has a frame for each turn, and no empty one to measure: its JSON is longer than that.
            return frame


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Counts the rows of a request.

    Args:
        request: `tokenizer` (folder), `paths` by part, `rendering`, `has_encoder`, `room` (tokens from which on a row
            is told by number).

    Returns:
        `unit`, `prompt` and `target` (histograms of a sample), `total` (of both together), `sampled`, `num_rows`,
        `long` by part: number, prompt tokens and answer tokens of each row beyond `room`; `is_whole`: whether every row
        that may be too long was counted.
    """
    tokenizer = AutoTokenizer.from_pretrained(request["tokenizer"], trust_remote_code=False, local_files_only=True)
    rendering = _decided(tokenizer, request["rendering"])
    counter = RowMeasure(tokenizer, rendering, has_encoder=request["has_encoder"])
    paths = {part: Path(path) for part, path in request["paths"].items()}
    num_rows = sum(count_stored_rows(path) for path in paths.values())
    tally = Tally(counter, room=request["room"], stride=max(1, num_rows // MAX_SAMPLED))
    for part, path in paths.items():
        for number, row in _rows(path, rendering):
            tally.add(part, number, row)
    prompts, targets = (np.array(each, dtype=np.int64) for each in zip(*tally.sampled or [(0, 0)], strict=True))
    return {
        "unit": "tokens",
        "kind": rendering.kind,
        "prompt": histogram(prompts),
        "target": histogram(targets),
        "total": histogram(prompts + targets),
        "sampled": len(tally.sampled),
        "num_rows": num_rows,
        "long": {part: tally.long.get(part, []) for part in paths},
        "is_whole": tally.is_whole,
    }


class Tally:
    """What was counted of the rows so far.

    Args:
        counter: Counts one row.
        room: Tokens from which on a row is kept by number.
        stride: Every so many rows one is counted for the histograms.

    Attributes:
        sampled: Prompt and answer tokens of the rows for the histograms.
        long: Number, prompt tokens and answer tokens of each row beyond the room, by part.
        is_whole: Whether every row that may be beyond it was counted.
    """

    def __init__(self, counter: RowMeasure, *, room: int, stride: int) -> None:
        self._counter = counter
        self._room = room
        self._stride = stride
        self._deadline = time.monotonic() + BUDGET_S
        self.sampled: list[tuple[int, int]] = []
        self.long: dict[str, list[list[int]]] = {}
        self.is_whole = True

    def add(self, part: str, number: int, row: Row) -> None:
        """Counts a row where it is drawn, or may be too long."""
        is_drawn = number % self._stride == 0 and len(self.sampled) < MAX_SAMPLED
        may_be_long = self._counter.at_most(row) > self._room
        long = self.long.setdefault(part, [])
        if may_be_long and (time.monotonic() > self._deadline or len(long) >= MAX_LONG_ROWS):
            self.is_whole = may_be_long = False
        if not (is_drawn or may_be_long):
            return
        try:
            counted = self._counter.count(row)
        except ConversationError:
            return
        if is_drawn:
            self.sampled.append(counted)
        if may_be_long and sum(counted) > self._room:
            long.append([number, *counted])


def _decided(tokenizer: PreTrainedTokenizerBase, told: Mapping[str, Any]) -> Rendering:
    """The rendering with its kind decided, as a training does it."""
    rendering = Rendering.from_dict(told)
    if told["kind"] == "conversation":
        return rendering
    wish: KindWish = told["kind"]
    return replace(rendering, kind=choose_rendering_kind(tokenizer, wish))


def _rows(path: Path, rendering: Rendering) -> Iterator[tuple[int, Row]]:
    """Rows that have an answer, with their numbers counted from 1."""
    columns = list(dict.fromkeys((*template_columns(rendering.template), rendering.target)))
    number = 0
    for batch in iterate_columns(path, columns):
        for cells in zip(*batch, strict=True):
            number += 1
            row = dict(zip(columns, cells, strict=True))
            if row[rendering.target].strip():
                yield number, row


def main(arguments: list[str]) -> None:
    """Reads a request, writes the answer, or the sentence of a refusal as `{"error": …}`."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    result = Path(arguments[1])
    try:
        told = measure(request)
    except EngineError as error:
        told = {"error": error.message}
    part = result.with_name(f"{result.name}.part")
    part.write_text(json.dumps(told), encoding="utf-8")
    os.replace(part, result)


if __name__ == "__main__":
    main(sys.argv[1:])
