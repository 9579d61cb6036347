"""What a `prefix-studio.json` from elsewhere says, reduced to values that are safe to keep and to show."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from app.services.archive import FORMAT_VERSION, RECORD_NAME
from app.services.foreign_evaluation import read_evaluation
from storage.errors import InvalidInputError
from worker.engine.recipe import Method, Recipe
from worker.engine.rendering import Rendering

MAX_TEXT = 100_000
MAX_SHORT_TEXT = 200
MAX_SAMPLES = 20
SAMPLE_KEYS = ("prompt", "expected", "base", "prefix")
HEXADECIMAL = frozenset("0123456789abcdef")

NO_RENDERING = Rendering(kind="plain", template="", target="")
"""A prefix that another tool made comes without one: it takes raw text."""


@dataclass(frozen=True)
class ForeignRecord:
    """What is known of an imported prefix beside its numbers.

    Attributes:
        name: Its name where it came from.
        method: What its numbers are; None where another tool made the prefix.
        base_model: Name of its base there.
        base_revision: Commit of the base on the hub.
        base_fingerprint: SHA-256 over the base's weights; None where another tool made the prefix.
        rendering: How rows become text.
        recipe: How it was trained.
        metrics: How well it did.
        samples: Answers to held-out rows, where its maker put them in.
    """

    name: str = ""
    method: Method | None = None
    base_model: str = ""
    base_revision: str | None = None
    base_fingerprint: str | None = None
    rendering: Rendering = NO_RENDERING
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)


def read_record(folder: Path) -> ForeignRecord:
    """Reads `prefix-studio.json` of an unpacked prefix; an empty record where another tool made it.

    Raises:
        InvalidInputError: It is damaged, of another version, or of a method that is not known here.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        return ForeignRecord()
    record = _parse(path.read_bytes())
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{RECORD_NAME} has the format version {str(version)[:20]}; this Prefix Studio reads {FORMAT_VERSION}. "
            "Bring it up to date, or export the prefix again."
        )
    base = _object(record, "base")
    samples = record.get("samples")
    return ForeignRecord(
        name=_text(record, "name", MAX_SHORT_TEXT),
        method=_method(record.get("method")),
        base_model=_text(base, "name", MAX_SHORT_TEXT),
        base_revision=_hexadecimal(base, "revision", 40),
        base_fingerprint=_hexadecimal(base, "fingerprint", 64),
        rendering=_rendering(_object(record, "rendering")),
        recipe={key: value for key, value in _scalars(record, "recipe").items() if key in Recipe.__dataclass_fields__},
        metrics=_metrics(record),
        samples=[_sample(each) for each in samples[:MAX_SAMPLES]] if isinstance(samples, list) else [],
    )


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data, parse_constant=lambda _: None, parse_float=_finite)
        # Half a surrogate pair can be written in JSON but neither kept nor sent.
        json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InvalidInputError(f"{RECORD_NAME} in this zip is no readable JSON object. Download the prefix again.")
    return record


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _method(value: Any) -> Method | None:
    if value is not None and value not in get_args(Method):
        raise InvalidInputError(
            f"The method in {RECORD_NAME} is {str(value)[:40]!r}; this Prefix Studio knows "
            f"{', '.join(get_args(Method))}. Bring it up to date, or export the prefix again."
        )
    return cast(Method | None, value)


def _rendering(values: dict[str, Any]) -> Rendering:
    kind, seed = values.get("kind", "plain"), values.get("few_shot_seed", 0)
    if kind not in ("plain", "chat", "conversation"):
        raise InvalidInputError(f"The rendering in {RECORD_NAME} is {str(kind)[:20]!r}; expected 'plain' or 'chat'.")
    return Rendering(
        kind=kind,
        template=_text(values, "template", MAX_TEXT),
        target=_text(values, "target", MAX_SHORT_TEXT),
        instruction=_text(values, "instruction", MAX_TEXT),
        few_shot_seed=seed if type(seed) is int and 0 <= seed < 2**31 else 0,
    )


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _text(values: dict[str, Any], name: str, limit: int) -> str:
    value = values.get(name)
    return value if isinstance(value, str) and len(value) <= limit else ""


def _hexadecimal(values: dict[str, Any], name: str, length: int) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and len(value) == length and set(value) <= HEXADECIMAL else None


def _scalars(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Numbers and short texts; no file needs to hand over more."""
    pairs = list(_object(record, name).items())[:100]
    return {key: value for key, value in pairs if len(key) <= 80 and _is_scalar(value)}


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    evaluation = read_evaluation(_object(record, "metrics").get("evaluation"))
    return _scalars(record, "metrics") | ({"evaluation": evaluation} if evaluation else {})


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_SHORT_TEXT
    return value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**53)


def _sample(value: Any) -> dict[str, str]:
    return {key: _text(value, key, MAX_TEXT) for key in SAMPLE_KEYS} if isinstance(value, dict) else {}
