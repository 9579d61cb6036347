"""Answers that can be read off the prompt, so that a training would learn to copy rather than to answer."""

from storage.doctor.classes import MIN_ROWS, classes_of
from storage.doctor.finding import Finding, finding
from storage.doctor.repairs import repair
from storage.doctor.scan import PartScan
from storage.quotes import quoted
from storage.tables.view import View

COPY_SHARE = 0.95
"""Share of the rows from which on a copy is no coincidence."""

CHANCE_SHARE = 0.5
"""Where prompts hold other rows' answers as often, these are words such as `a` that stand in any text."""

ROWS_FOR_EACH_CELL = 5
"""A column tells the answer by rule only where its cells come again and again; in any other each cell is its own."""


def leak_findings(scan: PartScan, view: View) -> list[Finding]:
    """Columns of the prompt that give the answer away, and prompts that hold it."""
    usable = int(scan.usable.sum())
    if usable < MIN_ROWS or view.is_conversation:
        return []
    classes = classes_of(scan)
    copying = [name for name in view.prompt if scan.copied[name] >= COPY_SHARE * usable]
    telling = [name for name in view.prompt if name not in copying and _tells(scan, name, len(classes), usable)]
    if named := copying + telling:
        listed = ", ".join(map(quoted, named))
        message = f"The prompt shows {listed}, which " + (
            "is the answer word for word." if copying else "goes with one answer each: the answer can be read off it."
        )
        mends = [repair("leave_out_of_prompt", columns=named)] if len(named) < len(view.prompt) else []
        return [finding("telling_columns", "warns", message, usable, (), mends)]
    share = scan.contained / usable
    if share < COPY_SHARE or scan.by_chance > CHANCE_SHARE * scan.chances:
        return []
    if classes:
        message = f"The answer stands in the prompt in {share:.0%} of the rows, so there is nothing to judge."
        return [finding("answer_in_text", "warns", message, scan.contained)]
    message = f"The answer stands in the prompt word for word in {share:.0%} of the rows. That is fine for extracting."
    return [finding("answer_in_text", "notes", message, scan.contained)]


def _tells(scan: PartScan, name: str, num_classes: int, usable: int) -> bool:
    """Whether each cell of a column goes with one answer, by rule rather than by chance."""
    answers = scan.telling.get(name)
    if not answers or num_classes < 2 or name in scan.constant:
        return False
    return len(answers) >= num_classes and len(answers) * ROWS_FOR_EACH_CELL <= usable
