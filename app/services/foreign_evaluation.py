"""The evaluation in a `prefix-studio.json` from elsewhere: rebuilt from values of the expected form, or left out."""

import math
from typing import Any

from app.services.verdict import METRICS, PARTS, SIDES

MAX_TEXT = 2_000
MAX_COUNT = 10**9
MAX_ROWS = 5
KINDS = ("labels", "text")
VERDICTS = ("helps", "no difference", "worse")
ENDS = ("complete", "time", "asked")
FIGURE = ("value", "low", "high")
ROW = ("prompt", "expected", "base", "prefix")


class _MisshapenError(Exception):
    """A value is not of the form that this project writes."""


def read_evaluation(value: Any) -> dict[str, Any] | None:
    """Reads an evaluation; None where it is none of ours in all that the page shows of it.

    Args:
        value: Whatever the file holds.
    """
    try:
        return _evaluation(_object(value))
    except _MisshapenError:
        return None


def _evaluation(value: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "part": _one_of(value.get("part"), PARTS),
        "chose_checkpoint": value.get("chose_checkpoint") is not False,
        "num_held_out": _count(value.get("num_held_out")),
        "num_rows": _count(value.get("num_rows")),
    }
    if not value.get("verdicts"):
        return {**told, "reason": _text(value.get("reason"))}
    arms, verdicts = _object(value.get("arms")), _object(value["verdicts"])
    names = [arm for arm in SIDES if arm in arms]
    rivals = [arm for arm in names if arm != "prefix"]
    metric = _one_of(value.get("metric"), METRICS)
    metrics = [name for name in METRICS if name in _object(_object(arms.get("prefix")).get("metrics"))]
    if metric not in metrics or "base" not in rivals or set(verdicts) != set(rivals):
        raise _MisshapenError
    return {
        **told,
        "kind": _one_of(value.get("kind"), KINDS),
        "metric": metric,
        "ended": _one_of(value.get("ended"), ENDS),
        "arms": {arm: _arm(_object(arms[arm]), metrics) for arm in names},
        "verdicts": {arm: _against(_object(verdicts[arm])) for arm in rivals},
        "rows": _rows(value.get("rows")),
    }


def _arm(value: dict[str, Any], metrics: list[str]) -> dict[str, Any]:
    given = _object(value.get("metrics"))
    told: dict[str, Any] = {
        "metrics": {name: _figure(given.get(name), 0.0) for name in metrics},
        "prompt_tokens": _number(value.get("prompt_tokens"), 0.0, MAX_COUNT),
    }
    return told | ({"examples": _count(value["examples"])} if "examples" in value else {})


def _against(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": _one_of(value.get("verdict"), VERDICTS),
        "difference": _figure(value.get("difference"), -1.0),
        "gained": _count(value.get("gained")),
        "lost": _count(value.get("lost")),
        "tokens_saved": _number(value.get("tokens_saved"), -MAX_COUNT, MAX_COUNT),
    }


def _rows(value: Any) -> dict[str, list[dict[str, Any]]]:
    rows = value if isinstance(value, dict) else {}
    return {name: [_row(row) for row in _list(rows.get(name))[:MAX_ROWS]] for name in ("gained", "lost")}


def _row(value: Any) -> dict[str, Any]:
    row = _object(value)
    return {name: _text(row.get(name)) for name in ROW} | {"change": _number(row.get("change"), -1.0, 1.0)}


def _figure(value: Any, lowest: float) -> dict[str, float]:
    figure = _object(value)
    return {name: _number(figure.get(name), lowest, 1.0) for name in FIGURE}


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _MisshapenError
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any, low: float, high: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise _MisshapenError
    return float(value)


def _count(value: Any) -> int:
    return int(_number(value, 0, MAX_COUNT))


def _text(value: Any) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _one_of(value: Any, known: Any) -> str:
    if not isinstance(value, str) or value not in known:
        raise _MisshapenError
    return value
