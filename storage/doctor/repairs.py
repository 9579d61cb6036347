"""The repairs that a finding may offer, each done with one click and undone by going back a version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.doctor.finding import Finding, Repair
from storage.errors import InvalidInputError
from storage.quotes import quoted


@dataclass(frozen=True)
class RepairKind:
    """What a repair is called.

    Attributes:
        label: What its button says.
        done: What the list of versions says, behind a number of rows.
        is_safe: Whether it can be done unseen: nothing that a training could learn from is lost.
    """

    label: str
    done: str
    is_safe: bool = False


KINDS: Mapping[str, RepairKind] = {
    "fix_mojibake": RepairKind("Restore the characters", "with misread characters restored", is_safe=True),
    "remove_control_characters": RepairKind(
        "Remove the control characters", "freed of control characters", is_safe=True
    ),
    "trim_targets": RepairKind("Trim the answers", "with the space around their answer cut"),
    "merge_labels": RepairKind("Merge the spellings", "given the spelling that most rows have", is_safe=True),
    "drop_empty_targets": RepairKind("Leave these rows out", "without an answer left out", is_safe=True),
    "drop_empty_prompts": RepairKind("Leave these rows out", "with an empty prompt left out", is_safe=True),
    "drop_duplicates": RepairKind("Keep each row once", "that repeated an earlier one left out", is_safe=True),
    "keep_one_answer": RepairKind(
        "Keep each prompt's most frequent answer", "with another answer to the same prompt left out"
    ),
    "drop_seen_in_training": RepairKind(
        "Take them out of the training rows", "held out as well, taken out of training", is_safe=True
    ),
    "resplit": RepairKind("Draw the held-out rows anew", "of the validation file joined to the others"),
    "drop_lost_characters": RepairKind("Leave these rows out", "with lost characters left out"),
    "drop_rare_classes": RepairKind("Leave these classes out", "of rare classes left out"),
    "balance_classes": RepairKind("Even out the classes", "of the largest class left out"),
    "drop_rows": RepairKind("Leave these rows out", "left out by number"),
    "drop_columns": RepairKind("Remove these columns", "without the removed columns"),
    "leave_out_of_prompt": RepairKind("Take it out of the prompt", "with a shorter prompt"),
}
"""In the order in which they are done: first the text of cells, then rows, then columns."""

CELL_KINDS = ("fix_mojibake", "remove_control_characters", "trim_targets", "merge_labels")
OF_COLUMNS = ("drop_columns", "leave_out_of_prompt")
MAX_ROWS_BY_NUMBER = 1_000_000


def repair(kind: str, **details: Any) -> Repair:
    """A repair as a finding offers it."""
    return {"kind": kind, "label": KINDS[kind].label, "safe": KINDS[kind].is_safe, **details}


def read_repairs(wishes: Any, found: Sequence[Finding], columns: Sequence[str]) -> list[Repair]:
    """Repairs as they were asked for, checked, in the order in which they are done.

    Args:
        wishes: `"safe"` for all that are safe; or a list of kinds, or of objects with `kind` and its details.
        found: Findings of the version, which say what there is to mend.
        columns: Columns of the table.

    Raises:
        InvalidInputError: One of them is unknown, or its details are no use.
    """
    if wishes == "safe":
        wishes = [each for one in found for each in one.get("repairs", [])[:1] if each["safe"]]
    if not isinstance(wishes, list) or not wishes:
        raise InvalidInputError(
            f'repairs is {quoted(wishes)}; expected a list such as ["drop_empty_targets"], or "safe" where something '
            "is safe to repair."
        )
    read = [_read(wish, columns) for wish in wishes]
    offered = {each["kind"]: each for one in found for each in one.get("repairs", [])}
    read = [{**offered.get(each["kind"], {}), **each} for each in read]
    if lacking := next((each["kind"] for each in read if each["kind"] in OF_COLUMNS and not each.get("columns")), None):
        raise InvalidInputError(f"The repair {lacking} needs the names of columns, since no finding offers it.")
    unique = {(each["kind"], str(each.get("columns")), str(each.get("rows"))): each for each in read}
    order = list(KINDS)
    return sorted(unique.values(), key=lambda each: order.index(each["kind"]))


def _read(wish: Any, columns: Sequence[str]) -> Repair:
    wish = {"kind": wish} if isinstance(wish, str) else wish
    if not isinstance(wish, dict) or wish.get("kind") not in tuple(KINDS):
        shown = wish.get("kind") if isinstance(wish, dict) else wish
        raise InvalidInputError(f"There is no repair {quoted(shown)}; expected one of {', '.join(KINDS)}.")
    unknown = sorted(set(wish) - {"kind", "label", "safe", "columns", "rows"})
    if unknown:
        raise InvalidInputError(
            f"The repair {wish['kind']} has no field {quoted(unknown[0])}; it knows columns and rows."
        )
    if "columns" in wish:
        _check_columns(wish["columns"], columns)
    if wish["kind"] == "drop_rows":
        _check_rows(wish.get("rows"))
    return wish


def _check_columns(named: Any, columns: Sequence[str]) -> None:
    if not isinstance(named, list) or not all(isinstance(name, str) and name in columns for name in named):
        raise InvalidInputError(
            f"The columns of the repair are {quoted(named)}; expected some of {', '.join(columns)}."
        )


def _check_rows(rows: Any) -> None:
    expected = 'expected numbers from 1 by part, such as {"train": [3, 5]}'
    if not isinstance(rows, dict) or not set(rows) <= {"train", "validation", "test"}:
        raise InvalidInputError(f"The rows to leave out are {str(rows)[:80]}; {expected}.")
    numbers = [number for part in rows.values() for number in (part if isinstance(part, list) else [None])]
    if len(numbers) > MAX_ROWS_BY_NUMBER or not all(type(number) is int and number > 0 for number in numbers):
        raise InvalidInputError(f"The rows to leave out are {str(rows)[:80]}; {expected}.")
