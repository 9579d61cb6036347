"""What a user says about a table: checked, filled in, and tried on rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.doctor.finding import Finding, finding
from storage.doctor.repairs import repair
from storage.errors import InvalidInputError
from storage.quotes import quoted
from storage.tables.view import CONVERSATION
from worker.engine.conversations import ConversationError, is_conversation, split_last_answer, transcript
from worker.engine.rendering import InvalidTemplateError, check_template, render_prompt, template_columns

RENDERINGS = ("auto", "plain", "chat")
MAX_TEMPLATE_CHARACTERS = 20_000
MAX_INSTRUCTION_CHARACTERS = 20_000
MAX_FRACTION = 0.5
MAX_SEED = 2**31 - 1


def complete_mapping(given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A whole mapping: what is given, the rest from `base`.

    Args:
        given: Some of `template`, `target`, `instruction`, `validation_fraction`, `seed` and `rendering`.
        base: All of them.

    Raises:
        InvalidInputError: A name is unknown, or a value is not of its kind or out of its range.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputError(
            f"The mapping is {quoted(given)}; expected an object with the fields {', '.join(base)}."
        )
    unknown = sorted(set(given) - set(base))
    if unknown:
        raise InvalidInputError(f"The mapping has no field {quoted(unknown[0])}; it knows {', '.join(base)}.")
    mapping = {**base, **given}
    for name, limit in (
        ("template", MAX_TEMPLATE_CHARACTERS),
        ("instruction", MAX_INSTRUCTION_CHARACTERS),
        ("target", 0),
    ):
        _check_text(name, mapping[name], limit)
    if mapping["rendering"] not in RENDERINGS:
        raise InvalidInputError(
            f"rendering is {quoted(mapping['rendering'])}; expected one of {', '.join(RENDERINGS)}."
        )
    _check_number("validation_fraction", mapping["validation_fraction"], (int, float), MAX_FRACTION)
    _check_number("seed", mapping["seed"], (int,), MAX_SEED)
    return mapping


def _check_text(name: str, value: Any, limit: int) -> None:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} is {quoted(value)}; expected text.")
    if limit and len(value) > limit:
        raise InvalidInputError(f"{name} has {len(value):,} characters; expected at most {limit:,}. Shorten it.")
    if any("\ud800" <= character <= "\udfff" or character == "\0" for character in value):
        raise InvalidInputError(f"{name} holds half of a character or a NUL, which is no text. Type it again.")


def _check_number(name: str, value: Any, kinds: tuple[type, ...], high: float) -> None:
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= high:
        raise InvalidInputError(f"{name} is {quoted(value)}; expected a number from 0 to {high:g}.")


def mapping_findings(mapping: Mapping[str, Any], columns: Sequence[str]) -> list[Finding]:
    """What is wrong with a mapping for a table with these columns, whatever its rows hold."""
    found: list[Finding] = []
    target = mapping["target"]
    try:
        check_template(mapping["template"], columns)
    except InvalidTemplateError as error:
        found.append(finding(error.code, "blocks", error.message + _braces(columns)))
    if target not in columns:
        listed = ", ".join(columns)
        message = f"The answer is to come from {quoted(target)}, but the table has no such column; it has {listed}."
        found.append(finding("unknown_target", "blocks", message))
    elif target in template_columns(mapping["template"]) and target != CONVERSATION:
        message = (
            f"The prompt shows {{{target}}}, which is the answer itself, so there is nothing to learn. Take it out."
        )
        others = [name for name in template_columns(mapping["template"]) if name != target]
        mends = [repair("leave_out_of_prompt", columns=[target])] if others else []
        found.append(finding("answer_in_prompt", "warns", message, repairs=mends))
    return found


def _braces(columns: Sequence[str]) -> str:
    """Why some columns cannot stand in a prompt, where there are such."""
    named = [name for name in columns if "{" in name or "}" in name]
    if not named:
        return ""
    which = f"The column {quoted(named[0])}" if len(named) == 1 else f"Columns such as {quoted(named[0])}"
    return f" {which} cannot be inserted because of the braces in the name. Rename it in the file, and upload that."


def render_sample(row: Mapping[str, str], mapping: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One row as it reads: `prompt`, `target`, and `row`, its number counted from 1.

    Raises:
        InvalidTemplateError: The row lacks a column that the template names.
    """
    if is_conversation(mapping):
        prompt, target = _shown_conversation(row.get(mapping["target"], ""))
        return {"prompt": prompt, "target": target, "row": number}
    return {
        "prompt": render_prompt(mapping["template"], row),
        "target": row.get(mapping["target"], ""),
        "row": number,
    }


def without_answer(row: Mapping[str, str], mapping: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row as a prompt may be made of them: a conversation ends before its last answer."""
    if not is_conversation(mapping):
        return dict(row)
    try:
        return {**row, mapping["target"]: split_last_answer(row[mapping["target"]])[0]}
    except ConversationError:
        return dict(row)


def _shown_conversation(text: str) -> tuple[str, str]:
    """A conversation as a person reads it: who said what before the last answer, and that answer."""
    try:
        prompt, answer = split_last_answer(text)
    except ConversationError:
        return text, ""
    return transcript(prompt), answer
