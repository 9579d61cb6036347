"""Comparisons that are kept: saved, listed, reopened, deleted."""

import json
from typing import Any

from app.context import AppContext
from app.services.columns import column_of, label_of
from storage import comparisons as stored
from storage.errors import InvalidInputError, TooLargeError
from storage.schema.comparison import Comparison
from storage.settings import MAX_NAME_CHARACTERS

MAX_BYTES = 6_000_000
EXCERPT_CHARACTERS = 160


def save(context: AppContext, body: dict[str, Any]) -> dict[str, Any]:
    """Keeps a comparison as it was shown.

    Args:
        context: The open stores.
        body: `base_model`, `columns` (as `/v1/compare` takes them), `request` (what was asked besides), `result`
            (`prompt`, `proof` and `answers`, one for each column) and if wanted `name`; by default the prompt's first
            words name it.

    Returns:
        What `describe` gives.

    Raises:
        InvalidInputError: The name cannot be used, or something in it is no valid text or number.
        TooLargeError: It is over the cap.
    """
    columns = [_column(column) for column in body["columns"]]
    if len(columns) != len(body["result"]["answers"]):
        raise InvalidInputError(
            f"There are {len(body['result']['answers'])} answers for {len(columns)} columns; expected one for each."
        )
    fields = {"base_model": body["base_model"], "columns": columns}
    fields |= {"request": body["request"], "result": body["result"]}
    _check(fields)
    with context.database.write() as session:
        kept = stored.add_comparison(session, (body.get("name") or "").strip() or _name_of(body), fields)
        return _body(kept)


def describe(context: AppContext, comparison_id: str) -> dict[str, Any]:
    """One comparison in full: `id`, `name`, `base_model`, `columns`, `labels`, `request`, `result`, `created_at`.

    Raises:
        NotFoundError: There is no such comparison.
    """
    with context.database.read() as session:
        return _body(stored.get_comparison(session, comparison_id))


def listing(context: AppContext) -> list[dict[str, Any]]:
    """Every comparison, the newest first, with the beginning of its prompt (`excerpt`) in place of the answers."""
    with context.database.read() as session:
        return [_head(kept) for kept in stored.list_comparisons(session)]


def remove(context: AppContext, comparison_id: str) -> None:
    """Deletes a comparison.

    Raises:
        NotFoundError: There is no such comparison.
    """
    with context.database.write() as session:
        stored.delete_comparison(session, comparison_id)


def _column(column: dict[str, Any]) -> dict[str, Any]:
    told = column_of(column["model"], column.get("context") or "none", strength=column.get("strength", 100))
    return {**told, "messages": column["messages"]} if column.get("messages") else told


def _check(fields: dict[str, Any]) -> None:
    """Refuses what could not be handed out again as JSON."""
    try:
        size = len(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise InvalidInputError("A text holds half a character. Send it as valid UTF-8.") from None
    except ValueError:
        raise InvalidInputError("A number is not finite; expected finite numbers in all figures.") from None
    if size > MAX_BYTES:
        raise TooLargeError(
            f"The comparison has {size:,} bytes; expected at most {MAX_BYTES:,}. Ask for shorter answers."
        )


def _name_of(body: dict[str, Any]) -> str:
    """The first words of what was asked."""
    request = body["request"]
    asked = " ".join((request.get("fields") or {}).values()) or request.get("prompt") or _last_message(body)
    words = "".join(each if each.isprintable() else " " for each in asked).split()
    name = " ".join(words)
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[: MAX_NAME_CHARACTERS - 1]}…" if name else "Comparison"


def _last_message(body: dict[str, Any]) -> str:
    threads = [column.get("messages") or [] for column in body["columns"]] + [body["request"].get("messages") or []]
    return next((str(thread[-1]["content"]) for thread in threads if thread), "") or "Comparison"


def _head(kept: Comparison) -> dict[str, Any]:
    return {
        "id": kept.id,
        "name": kept.name,
        "base_model": kept.base_model,
        "columns": kept.columns,
        "labels": [label_of(column, kept.base_model) for column in kept.columns],
        "excerpt": str(kept.result.get("prompt") or "")[-EXCERPT_CHARACTERS:],
        "created_at": kept.created_at.isoformat(),
    }


def _body(kept: Comparison) -> dict[str, Any]:
    return {**_head(kept), "request": kept.request, "result": kept.result}
