"""What a repair does to cells and to rows, apart from reading and writing files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from storage.doctor.characters import may_be_misread, remove_control_characters, restore
from storage.doctor.checks import later_copies, rows_of, same_prompt_other_target
from storage.doctor.classes import classes_of, plain, rare
from storage.doctor.finding import Repair
from storage.doctor.scan import PartScan
from storage.tables.split import Numbers
from storage.tables.table import Part
from storage.tables.view import Cells, View

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CellMender:
    """Mends the cells of a batch of columns; called with one, it returns it mended.

    Attributes:
        view: Which columns are prompt and answer.
        kinds: Repairs of cells that were asked for.
        spelling: The spelling that each class is to have, by its name without case and spaces.
    """

    view: View
    kinds: frozenset[str]
    spelling: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, batch: list[Cells]) -> list[Cells]:
        """The same columns with their cells mended."""
        if not self.kinds:
            return batch
        mended = [self._mend_characters(cells) for cells in batch]
        place = self.view.place(self.view.target)
        if "trim_targets" in self.kinds and not self.view.is_conversation:
            mended[place] = [cell.strip() if cell.strip() else cell for cell in mended[place]]
        if "merge_labels" in self.kinds:
            mended[place] = [self.spelling.get(plain(cell), cell) for cell in mended[place]]
        return mended

    def changed_by(self, column: str, before: str) -> list[str]:
        """The repairs that change a cell."""
        changed = []
        for kind, mend in self._steps(column):
            if (after := mend(before)) != before:
                changed.append(kind)
                before = after
        return changed

    def _steps(self, column: str) -> list[tuple[str, Callable[[str], str]]]:
        steps: list[tuple[str, Callable[[str], str]]] = [
            ("fix_mojibake", restore),
            ("remove_control_characters", remove_control_characters),
        ]
        if column == self.view.target:
            steps += [
                ("trim_targets", lambda cell: cell.strip() or cell),
                ("merge_labels", lambda cell: self.spelling.get(plain(cell), cell)),
            ]
        return [step for step in steps if step[0] in self.kinds]

    def _mend_characters(self, cells: Cells) -> Cells:
        text = "\n".join(cells)
        if "fix_mojibake" in self.kinds and may_be_misread(text):
            cells = [restore(cell) for cell in cells]
            text = "\n".join(cells)
        if "remove_control_characters" in self.kinds and remove_control_characters(text) != text:
            cells = [remove_control_characters(cell) for cell in cells]
        return cells


def dropped_rows(scans: Mapping[Part, PartScan], repairs: Sequence[Repair]) -> dict[Part, dict[str, Mask]]:
    """Rows that repairs leave out, by part and by kind; a row is counted for the first repair that takes it.

    Args:
        scans: What a pass over each part saw, its cells mended.
        repairs: In the order in which they are done.
    """
    dropped: dict[Part, dict[str, Mask]] = {part: {} for part in scans}
    for wish in repairs:
        for part, scan in scans.items():
            rows = _rows_left_out(wish, part, scans)
            mask = np.zeros(scan.num_rows, dtype=np.bool_)
            mask[rows[rows < scan.num_rows]] = True
            for earlier in dropped[part].values():
                mask &= ~earlier
            if mask.any():
                dropped[part][wish["kind"]] = mask
    return dropped


def _rows_left_out(wish: Repair, part: Part, scans: Mapping[Part, PartScan]) -> Numbers:
    scan = scans[part]
    faults = {
        "drop_empty_targets": "empty_target",
        "drop_empty_prompts": "empty_prompt",
        "drop_lost_characters": "lost_characters",
    }
    kind = wish["kind"]
    if kind in faults:
        return scan.rows_with(faults[kind])
    if kind == "drop_rows":
        return np.array(wish["rows"].get(part, []), dtype=np.int64) - 1
    of_training: dict[str, Callable[[], Numbers]] = {
        "drop_duplicates": lambda: later_copies(scan),
        "keep_one_answer": lambda: _rarer_answers(scan),
        "drop_rare_classes": lambda: rows_of(scan, rare(classes_of(scan))),
        "balance_classes": lambda: _surplus(scan),
        "drop_seen_in_training": lambda: _held_out_too(scans),
    }
    return of_training[kind]() if part == "train" and kind in of_training else np.empty(0, dtype=np.int64)


def _rarer_answers(scan: PartScan) -> Numbers:
    """Of rows with one prompt and several answers, those whose answer is not the most frequent, or else the first."""
    rows = same_prompt_other_target(scan)
    counts: dict[int, dict[int, int]] = {}
    for prompt, target in zip(scan.prompts[rows].tolist(), scan.targets[rows].tolist(), strict=True):
        answers = counts.setdefault(prompt, {})
        answers[target] = answers.get(target, 0) + 1
    kept = {prompt: max(answers, key=lambda target: answers[target]) for prompt, answers in counts.items()}
    pairs = zip(rows.tolist(), scan.prompts[rows].tolist(), scan.targets[rows].tolist(), strict=True)
    return np.array([row for row, prompt, target in pairs if kept[prompt] != target], dtype=np.int64)


def _surplus(scan: PartScan) -> Numbers:
    """Rows of the largest class beyond what all others have together, drawn evenly over the table."""
    counts = classes_of(scan)
    if len(counts) < 2:
        return np.empty(0, dtype=np.int64)
    rows = rows_of(scan, [next(iter(counts))])
    kept = sum(counts.values()) - len(rows)
    if kept >= len(rows):
        return np.empty(0, dtype=np.int64)
    chosen = np.linspace(0, len(rows) - 1, num=kept).round().astype(np.int64)
    return np.delete(rows, chosen)


def _held_out_too(scans: Mapping[Part, PartScan]) -> Numbers:
    held_out = [scan.pairs for part, scan in scans.items() if part != "train"]
    if not held_out:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(np.isin(scans["train"].pairs, np.concatenate(held_out)))
