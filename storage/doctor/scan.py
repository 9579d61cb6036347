"""One pass over a part of a table: hashes of its rows, and which of them something is odd about.

Memory grows by a few numbers for each row, never by its text.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.doctor.characters import CONTROL, LOST, may_be_misread, restore
from storage.tables.split import Numbers
from storage.tables.view import Cells, View, iterate_columns

MAX_CLASSES = 1000
MAX_CLASS_CHARACTERS = 200
CHARACTERS_LOOKED_AT = 20_000_000
"""Where a look at the first rows ends in any case."""

NUMBERS = ("prompts", "targets", "pairs", "prompt_characters", "target_characters")

Fixer = Callable[[list[Cells]], list[Cells]]


@dataclass
class PartScan:
    """What one pass over a part saw; indices count from 0.

    Attributes:
        num_rows: Rows that were looked at.
        prompts: Hash of the prompt of each row.
        targets: Hash of its answer.
        pairs: Hash of both.
        prompt_characters: Length of each prompt, without the template's own characters.
        target_characters: Length of each answer.
        flagged: Rows by what is odd about them: `empty_target`, `empty_prompt`, `padded_target`,
            `control_characters`, `mojibake`, `lost_characters`.
        constant: Columns that hold the same in every row, with that cell.
        classes: How often each answer comes; None where there are too many for classes.
        copied: For each column of the prompt, rows whose cell there is the answer.
        contained: Rows whose prompt has the answer in it.
        by_chance: Rows whose prompt has the other answer of the row before in it; `chances` says of how many.
        chances: Rows whose answer is not that of the row before.
        telling: For each column of the prompt, the answer that goes with each of its cells, as hashes; a column that
            leaves a choice is missing.
    """

    num_rows: int = 0
    prompts: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    targets: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    pairs: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    prompt_characters: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    target_characters: Numbers = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    flagged: dict[str, Numbers] = field(default_factory=dict)
    constant: dict[str, str] = field(default_factory=dict)
    classes: Counter[str] | None = field(default_factory=Counter)
    copied: Counter[str] = field(default_factory=Counter)
    contained: int = 0
    by_chance: int = 0
    chances: int = 0
    telling: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Which rows have an answer."""
        mask = np.ones(self.num_rows, dtype=np.bool_)
        mask[self.rows_with("empty_target")] = False
        return mask

    def rows_with(self, fault: str) -> Numbers:
        """Rows of which that was noticed."""
        return self.flagged.get(fault, np.empty(0, dtype=np.int64))


class PartScanner:
    """Collects a `PartScan` batch by batch.

    Args:
        view: Which columns are prompt and answer.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._scan = PartScan(telling={name: {} for name in view.prompt if not view.is_conversation})
        self._numbers = {name: array("q") for name in NUMBERS}
        self._flagged: dict[str, array[int]] = {}
        self.characters = 0

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return self._scan.num_rows

    def add(self, batch: list[Cells]) -> None:
        """Looks at one batch of columns."""
        prompts, targets = self._view.split(batch)
        target_hashes = [hash(target) for target in targets]
        self._numbers["prompts"].extend(map(hash, prompts))
        self._numbers["targets"].extend(target_hashes)
        # Two conversations may say the same in another order, or by others' mouths.
        is_conversation = self._view.is_conversation
        wholes = batch[self._view.place(self._view.target)] if is_conversation else zip(prompts, targets, strict=True)
        self._numbers["pairs"].extend(map(hash, wholes))
        self._numbers["prompt_characters"].extend(sum(map(len, prompt)) for prompt in prompts)
        self._numbers["target_characters"].extend(map(len, targets))
        self._flag("empty_target", (index for index, cell in enumerate(targets) if not cell.strip()))
        self._flag("padded_target", (i for i, cell in enumerate(targets) if cell.strip() and cell != cell.strip()))
        # A conversation without an answer has become an empty cell as a whole, which is one fault rather than two.
        unasked = (i for i, cells in enumerate(prompts) if not any(map(str.strip, cells)))
        self._flag("empty_prompt", (i for i in unasked if targets[i].strip() or not is_conversation))
        self._look_at_characters(batch)
        self._look_at_columns(batch)
        self._count_classes(targets)
        self._look_for_answers(prompts, targets, target_hashes)
        self._scan.num_rows += len(targets)

    def result(self) -> PartScan:
        """What all batches showed."""
        for name, numbers in self._numbers.items():
            setattr(self._scan, name, np.array(numbers, dtype=np.int64))
        self._scan.flagged = {name: np.array(rows, dtype=np.int64) for name, rows in self._flagged.items() if rows}
        return self._scan

    def _flag(self, fault: str, indices: Iterable[int]) -> None:
        start = self._scan.num_rows
        self._flagged.setdefault(fault, array("q")).extend(start + index for index in indices)

    def _look_at_characters(self, batch: Sequence[Cells]) -> None:
        odd: dict[str, set[int]] = {"mojibake": set(), "control_characters": set(), "lost_characters": set()}
        for cells in batch:
            self.characters += sum(map(len, cells))
            # Plain ASCII can only hold control characters, and is quickly looked through in one piece.
            is_suspect = may_be_misread("\n".join(cell for cell in cells if not cell.isascii()))
            text = "\n".join(cells)
            if not is_suspect and LOST not in text and not CONTROL.search(text):
                continue
            for index, cell in enumerate(cells):
                restored = restore(cell) if is_suspect else cell
                if restored != cell:
                    odd["mojibake"].add(index)
                if CONTROL.search(restored):
                    odd["control_characters"].add(index)
                if LOST in restored:
                    odd["lost_characters"].add(index)
        for fault, indices in odd.items():
            self._flag(fault, sorted(indices))

    def _look_at_columns(self, batch: Sequence[Cells]) -> None:
        constant = self._scan.constant
        for name, cells in zip(self._view.columns, batch, strict=True):
            if not self._scan.num_rows and cells:
                constant[name] = cells[0]
            if name in constant and cells.count(constant[name]) != len(cells):
                del constant[name]

    def _count_classes(self, targets: Cells) -> None:
        classes = self._scan.classes
        if classes is None:
            return
        classes.update(targets)
        if len(classes) > MAX_CLASSES or any(len(target) > MAX_CLASS_CHARACTERS for target in targets):
            self._scan.classes = None

    def _look_for_answers(self, prompts: Sequence[tuple[str, ...]], targets: Cells, hashes: Sequence[int]) -> None:
        scan = self._scan
        if self._view.is_conversation:
            return
        for place, name in enumerate(self._view.prompt):
            cells = [prompt[place] for prompt in prompts]
            scan.copied[name] += sum(cell == target != "" for cell, target in zip(cells, targets, strict=True))
            if name in scan.telling and not _extend(scan.telling[name], cells, hashes):
                del scan.telling[name]
        answers = [target.strip() for target in targets]
        texts = list(map("\n".join, prompts))
        scan.contained += sum(bool(answer) and answer in text for answer, text in zip(answers, texts, strict=True))
        others = [pair for pair in zip(answers, answers[1:], texts[1:], strict=False) if pair[0] and pair[0] != pair[1]]
        scan.chances += len(others)
        scan.by_chance += sum(other in text for other, _, text in others)


def scan_part(path: Path, view: View, *, fix: Fixer | None = None, max_rows: int | None = None) -> PartScan:
    """Reads a part once.

    Args:
        path: Its Parquet file.
        view: Which columns are prompt and answer.
        fix: What is done to each batch before it is looked at.
        max_rows: Where a short look ends; None reads to the end.
    """
    scanner = PartScanner(view)
    for batch in iterate_columns(path, view.columns):
        scanner.add(fix(batch) if fix else batch)
        if max_rows is not None and (scanner.num_rows >= max_rows or scanner.characters >= CHARACTERS_LOOKED_AT):
            break
    return scanner.result()


def _extend(known: dict[int, int], cells: Cells, hashes: Sequence[int]) -> bool:
    """Adds which answer goes with which cell; whether it is still one each, and few enough to tell."""
    for cell, target in zip(map(hash, cells), hashes, strict=True):
        if known.setdefault(cell, target) != target or len(known) > MAX_CLASSES:
            return False
    return True
