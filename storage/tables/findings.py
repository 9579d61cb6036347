"""What is worth knowing about the rows before anything is trained on them, counted in one pass."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from storage.artifacts import ArtifactStore
from storage.tables.preview import iterate_batches
from storage.tables.table import Part

Finding = dict[str, Any]
Severity = Literal["blocks", "warns", "notes"]
Hashes = npt.NDArray[np.int64]

MAX_ROWS_NAMED = 10
MAX_ROWS_TOLD = 5
FEW_ROWS = 10
FILE_WORDS: Mapping[Part, str] = {"train": "training", "validation": "validation", "test": "test"}
LABEL_SHARE = 0.2
"""Where the different answers are fewer than this share of the rows, they are classes rather than texts."""

ODD_CHARACTER = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


def finding(code: str, severity: Severity, message: str, count: int = 0, rows: Iterable[int] = ()) -> Finding:
    """One finding; `rows` are numbers of rows counted from 1, of which the first few are kept and told."""
    named = [int(row) for row, _ in zip(rows, range(MAX_ROWS_NAMED), strict=False)]
    if len(named) == 1 == count:
        message += f" It is row {named[0]:,}."
    elif named:
        told = ", ".join(f"{row:,}" for row in named[:MAX_ROWS_TOLD])
        message += f" {'They are' if count <= MAX_ROWS_TOLD else 'The first are'} rows {told}."
    return {"code": code, "severity": severity, "message": message, "count": int(count), "rows": named}


@dataclass
class PartScan:
    """What one pass over a part saw; indices count from 0.

    Attributes:
        rows: Hash of all cells of each row.
        prompts: Hash of the prompt's cells.
        targets: Hash of the answer.
        empty_targets: Rows without an answer.
        empty_prompts: Rows without anything in their prompt.
        odd_characters: Rows with control characters or characters lost in an earlier conversion.
    """

    rows: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    prompts: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    targets: Hashes = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    empty_targets: list[int] = field(default_factory=list)
    empty_prompts: list[int] = field(default_factory=list)
    odd_characters: list[int] = field(default_factory=list)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Which rows have an answer."""
        mask = np.ones(len(self.targets), dtype=np.bool_)
        mask[self.empty_targets] = False
        return mask


def scan_part(
    store: ArtifactStore, blob: str, columns: Sequence[str], prompt: Sequence[str], target: str, max_rows: int | None
) -> PartScan:
    """Reads a part once, with eight bytes of memory for each hash of a row.

    Args:
        store: Where the table lies.
        blob: SHA-256 of its Parquet file.
        columns: All columns.
        prompt: Those that the template names.
        target: The one with the answer.
        max_rows: Where to stop; None reads to the end.
    """
    prompt_places = [columns.index(name) for name in prompt]
    target_place = columns.index(target)
    hashes: list[tuple[Hashes, Hashes, Hashes]] = []
    scan = PartScan()
    start = 0
    for cells in iterate_batches(store, blob, columns):
        used = [cells[place] for place in prompt_places]
        targets = cells[target_place]
        hashes.append((_hash(cells), _hash(used), _hash([targets])))
        scan.empty_targets += [start + index for index, cell in enumerate(targets) if not cell.strip()]
        scan.empty_prompts += [start + index for index, row in enumerate(zip(*used, strict=True)) if not _fills(row)]
        scan.odd_characters += [start + index for index in _odd_rows([*used, targets])]
        start += len(targets)
        if max_rows is not None and start >= max_rows:
            break
    scan.rows, scan.prompts, scan.targets = (np.concatenate(kind) for kind in zip(*hashes, strict=True))
    return scan


def _hash(cells: Sequence[Sequence[str]]) -> Hashes:
    return np.fromiter(map(hash, zip(*cells, strict=True)), dtype=np.int64)


def _fills(row: Sequence[str]) -> bool:
    return any(cell.strip() for cell in row)


def _odd_rows(columns: Sequence[Sequence[str]]) -> list[int]:
    if not any(ODD_CHARACTER.search("\n".join(cells)) for cells in columns):
        return []
    rows = enumerate(zip(*columns, strict=True))
    return [index for index, row in rows if any(map(ODD_CHARACTER.search, row))]


def row_findings(
    store: ArtifactStore,
    blobs: Mapping[Part, str],
    columns: Sequence[str],
    prompt: Sequence[str],
    target: str,
    *,
    max_rows: int | None = None,
) -> list[Finding]:
    """What is worth knowing about the rows of all parts.

    Args:
        store: Where the table lies.
        blobs: SHA-256 of the Parquet file of each part.
        columns: All columns.
        prompt: Those that the template names.
        target: The one with the answer.
        max_rows: Rows of each part to look at; None looks at all.

    Returns:
        Findings, those that block first; `part` says which part the rows are counted in.
    """
    found: list[Finding] = []
    scans = {part: scan_part(store, blob, columns, prompt, target, max_rows) for part, blob in blobs.items()}
    for part, scan in scans.items():
        where = "" if len(scans) == 1 else f" in the {FILE_WORDS[part]} file"
        checks = _cells(scan, where, target)
        if part == "train":
            checks += [*_amount(scan, target), *_repeats(scan, where)]
        else:
            checks += _seen_in_training(scan, scans["train"], where)
        found += [{**check, "part": part} for check in checks]
    order = ("blocks", "warns", "notes")
    return sorted(found, key=lambda one: order.index(one["severity"]))


def _amount(scan: PartScan, target: str) -> list[Finding]:
    usable = int(scan.usable.sum())
    if usable < 2:
        return [
            finding(
                "no_usable_rows",
                "blocks",
                f"{_count(usable, 'row has', 'rows have')} an answer in {target!r}; training needs at least two. "
                "Choose another column for the answer, or fill it in.",
                usable,
            )
        ]
    found = []
    if usable < FEW_ROWS:
        message = (
            f"There are only {usable} rows with an answer. A prefix learns little from so few; aim for 50 or more."
        )
        found.append(finding("few_rows", "warns", message, usable))
    if len(np.unique(scan.targets[scan.usable])) == 1:
        message = f"Every row has the same answer in {target!r}, so there is nothing to learn. Choose another column."
        found.append(finding("constant_target", "warns", message, usable))
    return found


def _cells(scan: PartScan, where: str, target: str) -> list[Finding]:
    found = []
    if rows := scan.empty_targets:
        message = f"{_count(len(rows), 'row', 'rows')}{where} without an answer in {target!r} will be left out."
        found.append(finding("empty_target", "warns", message, len(rows), _from_one(rows)))
    if rows := scan.empty_prompts:
        message = f"{_count(len(rows), 'row has', 'rows have')} nothing in the columns of the prompt{where}."
        found.append(finding("empty_prompt", "warns", message, len(rows), _from_one(rows)))
    if rows := scan.odd_characters:
        message = (
            f"{_count(len(rows), 'row holds', 'rows hold')} control characters, or characters that were lost when the "
            f"file was converted{where}. Check the encoding of the file."
        )
        found.append(finding("control_characters", "warns", message, len(rows), _from_one(rows)))
    return found


def _repeats(scan: PartScan, where: str) -> list[Finding]:
    found = []
    repeated = _later_copies(scan.rows)
    if len(repeated):
        message = f"{_count(len(repeated), 'row repeats', 'rows repeat')} an earlier row word for word{where}."
        found.append(finding("duplicate_rows", "warns", message, len(repeated), _from_one(repeated)))
    differing = _same_prompt_other_target(scan)
    if len(differing):
        targets = scan.targets[scan.usable]
        are_classes = len(np.unique(targets)) <= LABEL_SHARE * len(targets)
        severity: Severity = "warns" if are_classes else "notes"
        message = f"{len(differing):,} rows{where} share their prompt with a row that has another answer. " + (
            "One of the two is likely wrong." if are_classes else "That is fine where several answers are good."
        )
        found.append(finding("same_prompt_other_target", severity, message, len(differing), _from_one(differing)))
    return found


def _seen_in_training(scan: PartScan, train: PartScan, where: str) -> list[Finding]:
    seen = np.flatnonzero(np.isin(scan.rows, train.rows))
    if not len(seen):
        return []
    message = (
        f"{_count(len(seen), 'row', 'rows')}{where} also {'stands' if len(seen) == 1 else 'stand'} among the rows for "
        "training, so its scores will flatter."
    )
    return [finding("seen_in_training", "warns", message, len(seen), _from_one(seen))]


def _later_copies(hashes: Hashes) -> npt.NDArray[np.int64]:
    order = np.argsort(hashes, kind="stable")
    is_copy = np.zeros(len(hashes), dtype=np.bool_)
    is_copy[1:] = hashes[order][1:] == hashes[order][:-1]
    return np.sort(order[is_copy])


def _same_prompt_other_target(scan: PartScan) -> npt.NDArray[np.int64]:
    usable = np.flatnonzero(scan.usable)
    prompts, targets = scan.prompts[usable], scan.targets[usable]
    pairs = np.unique(np.stack([prompts, targets]), axis=1)
    values, counts = np.unique(pairs[0], return_counts=True)
    return usable[np.isin(prompts, values[counts > 1])]


def _from_one(indices: Iterable[int]) -> Iterable[int]:
    return (int(index) + 1 for index in indices)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
