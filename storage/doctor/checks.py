"""From what the passes saw to findings: each with its count, its rows and what would mend it."""

from collections.abc import Mapping

import numpy as np

from storage.doctor.classes import classes_of, dominating, misspelt, rare, spelling_of
from storage.doctor.finding import Finding, Severity, counted, finding, ranked
from storage.doctor.leaks import leak_findings
from storage.doctor.repairs import repair
from storage.doctor.scan import PartScan
from storage.quotes import quoted
from storage.tables.split import Numbers
from storage.tables.table import Part
from storage.tables.view import View

FEW_ROWS = 10
MAX_NAMES_TOLD = 4
OF_CELLS = ("padded_target", "similar_labels")
"""Findings whose repair needs the answer to be a cell of its own, which a conversation has not."""

FILE_WORDS: Mapping[Part, str] = {"train": "training", "validation": "validation", "test": "test"}


def table_findings(scans: Mapping[Part, PartScan], view: View) -> list[Finding]:
    """What is worth knowing about the rows of all parts.

    Args:
        scans: What a pass over each part saw.
        view: Which columns are prompt and answer.

    Returns:
        Findings, those that block first; `part` says which part the rows are counted in.
    """
    found: list[Finding] = []
    spelling = spelling_of(scans["train"])
    for part, scan in scans.items():
        where = "" if len(scans) == 1 else f" in the {FILE_WORDS[part]} file"
        checks = _cells(scan, where, view) + _spellings(scan, spelling, where)
        if part == "train":
            checks += [*_amount(scan, view), *_repeats(scan, where), *_classes(scan, view.target)]
            checks += leak_findings(scan, view) + _columns(scan, view)
        else:
            checks += _seen_in_training(scan, scans["train"], where, part)
        found += [{**check, "part": part} for check in checks]
    return ranked(one for one in found if not view.is_conversation or one["code"] not in OF_CELLS)


def _amount(scan: PartScan, view: View) -> list[Finding]:
    usable = int(scan.usable.sum())
    target = view.target
    if usable < 2:
        message = (
            f"{counted(usable, 'row has', 'rows have')} an answer in {quoted(target)}; training needs at least two. "
            "Choose another column for the answer, or fill it in."
        )
        if view.is_conversation:
            message = (
                f"The assistant answers in {counted(usable, 'conversation', 'conversations')} of {scan.num_rows:,}; "
                "training needs at least two. Bring conversations in which it says something after the user."
            )
        return [finding("no_usable_rows", "blocks", message, usable)]
    found = []
    if usable < FEW_ROWS:
        message = (
            f"There are only {usable} rows with an answer. A prefix learns little from so few; aim for 50 or more."
        )
        found.append(finding("few_rows", "warns", message, usable))
    if len(np.unique(scan.targets[scan.usable])) == 1:
        message = (
            f"Every row has the same answer in {quoted(target)}, so there is nothing to learn. Choose another column."
        )
        found.append(finding("constant_target", "warns", message, usable))
    return found


def _cells(scan: PartScan, where: str, view: View) -> list[Finding]:
    """Findings about single rows."""
    unanswered = (
        " in which the assistant answers nothing"
        if view.is_conversation
        else f" without an answer in {quoted(view.target)}"
    )
    texts: dict[str, tuple[Severity, str, str, str, str]] = {
        "empty_target": (
            "warns", "row", "rows", f"{where}{unanswered} will be left out.", "drop_empty_targets",
        ),
        "empty_prompt": (
            "warns", "row has", "rows have", f" nothing in the columns of the prompt{where}.", "drop_empty_prompts",
        ),
        "mojibake": (
            "warns", "row holds", "rows hold",
            f" characters that an earlier program misread, such as Ã© for é{where}. They can be restored.",
            "fix_mojibake",
        ),
        "control_characters": (
            "warns", "row holds", "rows hold", f" control characters, which no reader sees{where}.",
            "remove_control_characters",
        ),
        "lost_characters": (
            "warns", "row holds", "rows hold",
            f" the sign \ufffd for characters that were lost when the file was converted{where}. Read the file in "
            "another encoding, or leave these rows out.",
            "drop_lost_characters",
        ),
        "padded_target": (
            "notes", "answer begins or ends", "answers begin or end",
            f" with white space{where}, which the model would learn to write.", "trim_targets",
        ),
    }  # fmt: skip
    found = []
    for code, (severity, one, many, rest, kind) in texts.items():
        if len(rows := scan.rows_with(code)):
            message = counted(len(rows), one, many) + rest
            found.append(finding(code, severity, message, len(rows), rows + 1, [repair(kind)]))
    return found


def _repeats(scan: PartScan, where: str) -> list[Finding]:
    found = []
    if len(repeated := later_copies(scan)):
        message = f"{counted(len(repeated), 'row repeats', 'rows repeat')} prompt and answer of an earlier row{where}."
        found.append(
            finding("duplicate_rows", "warns", message, len(repeated), repeated + 1, [repair("drop_duplicates")])
        )
    if len(differing := same_prompt_other_target(scan)):
        severity: Severity = "warns" if classes_of(scan) else "notes"
        message = f"{len(differing):,} rows{where} share their prompt with a row that has another answer. " + (
            "One of the two is likely wrong." if classes_of(scan) else "That is fine where several answers are good."
        )
        mend = [repair("keep_one_answer")]
        found.append(finding("same_prompt_other_target", severity, message, len(differing), differing + 1, mend))
    return found


def _spellings(scan: PartScan, spelling: Mapping[str, str], where: str) -> list[Finding]:
    merged = misspelt(scan, spelling)
    if not merged:
        return []
    rows = rows_of(scan, list(merged))
    pairs = [f"{quoted(label)} and {quoted(chosen)}" for label, chosen in list(merged.items())[:MAX_NAMES_TOLD]]
    message = (
        f"{counted(len(rows), 'row spells its answer', 'rows spell their answers')} apart from others only in case or "
        f"spaces{where}: {', '.join(pairs)}{' and more' if len(merged) > MAX_NAMES_TOLD else ''}."
    )
    return [finding("similar_labels", "warns", message, len(rows), rows + 1, [repair("merge_labels")])]


def _classes(scan: PartScan, target: str) -> list[Finding]:
    found = []
    counts = classes_of(scan)
    if few := rare(counts):
        rows = rows_of(scan, few)
        named = ", ".join(f"{quoted(label)} ({counts[label]})" for label in few[:MAX_NAMES_TOLD])
        what = f"{counted(len(few), 'class of', 'classes of')} {quoted(target)}"
        has, more = "has" if len(few) == 1 else "have", " and more" if len(few) > MAX_NAMES_TOLD else ""
        message = f"{what} {has} fewer than five rows: {named}{more}. Bring more of them."
        found.append(finding("rare_classes", "warns", message, len(rows), rows + 1, [repair("drop_rare_classes")]))
    if (most := dominating(counts)) is not None:
        share = counts[most] / sum(counts.values())
        message = (
            f"{share:.0%} of the rows have the answer {quoted(most)}: always saying so would be right as often. "
            "Look at the F1 of each class rather than at the accuracy."
        )
        found.append(finding("dominating_class", "notes", message, counts[most], (), [repair("balance_classes")]))
    return found


def _columns(scan: PartScan, view: View) -> list[Finding]:
    names = [name for name in scan.constant if name != view.target and scan.num_rows > 1]
    if not names:
        return []
    shown = ", ".join(
        f"{quoted(name)} ({'empty' if not scan.constant[name].strip() else quoted(scan.constant[name][:40])})"
        for name in names[:MAX_NAMES_TOLD]
    )
    in_prompt = [name for name in names if name in view.prompt]
    outside = [name for name in names if name not in view.prompt]
    message = (
        f"{counted(len(names), 'column holds', 'columns hold')} the same in every row: {shown}"
        f"{' and more' if len(names) > MAX_NAMES_TOLD else ''}. "
        + (f"The prompt repeats {', '.join(map(quoted, in_prompt[:MAX_NAMES_TOLD]))} each time." if in_prompt else "")
    ).strip()
    mends = [repair("drop_columns", columns=outside)] if outside else []
    if in_prompt and len(in_prompt) < len(view.prompt):
        mends.append(repair("leave_out_of_prompt", columns=in_prompt))
    return [finding("constant_columns", "notes", message, len(names), (), mends)]


def _seen_in_training(scan: PartScan, train: PartScan, where: str, part: Part) -> list[Finding]:
    seen = np.flatnonzero(np.isin(scan.pairs, train.pairs))
    if not len(seen):
        return []
    message = (
        f"{counted(len(seen), 'row', 'rows')}{where} also {'stands' if len(seen) == 1 else 'stand'} among the rows for "
        "training, so its scores will flatter."
    )
    mends = [repair("drop_seen_in_training")] + ([repair("resplit")] if part == "validation" else [])
    return [finding("seen_in_training", "warns", message, len(seen), seen + 1, mends)]


def rows_of(scan: PartScan, labels: list[str]) -> Numbers:
    """Rows that have one of these answers."""
    hashes = np.fromiter(map(hash, labels), dtype=np.int64, count=len(labels))
    return np.flatnonzero(np.isin(scan.targets, hashes))


def later_copies(scan: PartScan) -> Numbers:
    """Rows whose prompt and answer an earlier row has already; rows without an answer are another matter."""
    usable = np.flatnonzero(scan.usable)
    pairs = scan.pairs[usable]
    order = np.argsort(pairs, kind="stable")
    is_copy = np.zeros(len(pairs), dtype=np.bool_)
    is_copy[1:] = pairs[order][1:] == pairs[order][:-1]
    return np.sort(usable[order[is_copy]])


def same_prompt_other_target(scan: PartScan) -> Numbers:
    """Rows with an answer whose prompt has another answer elsewhere."""
    usable = np.flatnonzero(scan.usable)
    prompts = scan.prompts[usable]
    _, first = np.unique(scan.pairs[usable], return_index=True)
    values, counts = np.unique(prompts[first], return_counts=True)
    return usable[np.isin(prompts, values[counts > 1])]
