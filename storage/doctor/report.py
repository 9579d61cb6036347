"""What the doctor counts besides its findings: rows of each part, lengths, classes. It is kept with the version."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from storage.doctor.classes import classes_of
from storage.doctor.scan import PartScan
from storage.tables.split import Numbers, drawn_indices, numbered
from storage.tables.table import PARTS, Part
from storage.tables.view import View

MAX_BINS = 24
MAX_CLASSES_SHOWN = 12
CUT_QUANTILE = 0.99
"""A histogram ends there; what is longer is in its last bar, so that one long row does not flatten the others."""


def table_report(scans: Mapping[Part, PartScan], mapping: Mapping[str, Any], view: View) -> dict[str, Any]:
    """Counts for pictures and for the sentence that says how many rows a training has.

    Args:
        scans: What a pass over each part saw.
        mapping: Holds `validation_fraction` and `seed`.
        view: Which columns are prompt and answer.

    Returns:
        `counts` (usable rows of each part, the drawn split applied), `lengths` (`prompt` and `target`, in characters),
        `classes` (name and count, the most frequent first), `num_classes` and `looked_at` (rows).
    """
    train = scans["train"]
    counts = classes_of(train)
    return {
        "counts": part_counts(scans, mapping, view),
        "lengths": {
            "unit": "characters",
            "prompt": histogram(train.prompt_characters + view.template_characters),
            "target": histogram(train.target_characters),
        },
        "classes": [[label, count] for label, count in list(counts.items())[:MAX_CLASSES_SHOWN]],
        "num_classes": len(counts),
        "num_class_rows": sum(counts.values()),
        "looked_at": sum(scan.num_rows for scan in scans.values()),
    }


def part_counts(scans: Mapping[Part, PartScan], mapping: Mapping[str, Any], view: View) -> dict[Part, int]:
    """Usable rows of each part; validation rows that are drawn from `train` are counted where they are used."""
    counts: dict[Part, int] = {part: int(scans[part].usable.sum()) if part in scans else 0 for part in PARTS}
    if "validation" not in scans:
        train = scans["train"]
        # Conversations are kept apart as wholes, as `storage.rows` does.
        alike = train.pairs if view.is_conversation else train.prompts
        drawn = drawn_indices(mapping, train.num_rows, numbered(alike) if train.num_rows else None)
        counts["validation"] = int(train.usable[drawn].sum())
        counts["train"] -= counts["validation"]
    return counts


def histogram(lengths: Numbers) -> dict[str, Any]:
    """Lengths as bars.

    Args:
        lengths: One number for each row.

    Returns:
        `edges` (one more than bars), `rows` of each bar, `median`, `longest`; what lies beyond the last edge is in the
        last bar.
    """
    if not len(lengths):
        return {"edges": [0, 1], "rows": [0], "median": 0, "longest": 0}
    longest = int(lengths.max())
    end = max(1, int(np.quantile(lengths, CUT_QUANTILE)) + 1)
    step = max(1, -(-end // MAX_BINS))
    edges = list(range(0, end + step, step))
    rows, _ = np.histogram(np.minimum(lengths, edges[-1]), bins=edges)
    return {
        "edges": edges,
        "rows": [int(count) for count in rows],
        "median": int(np.median(lengths)),
        "longest": longest,
    }
