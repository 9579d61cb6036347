"""Fields of a request, each checked before anything is computed; a refusal names the field and what it may be."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from storage.errors import TooLargeError
from worker.engine.chat_template import MAX_PROMPT_CHARACTERS, Message
from worker.inference.errors import InvalidRequestError

MAX_BODY_BYTES = 4_000_000
MAX_MESSAGES = 200
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 200
MAX_SEED = 2**63 - 1
MAX_TOKENS_ASKED = 1_000_000
ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when an answer ends; the same for every column of a comparison.

    Attributes:
        max_tokens: At most so many tokens.
        temperature: 0 is greedy.
        top_p: Share of probability that is drawn from.
        seed: Seed of the draws; None takes a fresh one.
        stop: Texts that end an answer.
        top_logprobs: How many of the most likely tokens are told with each token and its log-probability; None tells
            neither.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    top_logprobs: int | None = None


async def read_body(request: Request) -> "Fields":
    """The JSON object of a request.

    Raises:
        TooLargeError: It is over the cap.
        InvalidRequestError: It is no JSON object.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise TooLargeError(f"The request has more than {MAX_BODY_BYTES:,} bytes. Send a shorter prompt.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequestError("The body of the request is not JSON; expected an object with its fields.") from None
    if not isinstance(body, dict):
        raise InvalidRequestError("The body of the request is not a JSON object; expected one with its fields.")
    return Fields(body)


class Fields:
    """Typed access to an object that came from outside; null counts as left out.

    Args:
        values: The object.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, name: str) -> Any:
        """The field as it came, or None."""
        return self._values.get(name)

    def text(self, name: str, *, limit: int = MAX_PROMPT_CHARACTERS) -> str:
        """A text that has to be there."""
        return check_text(self.get(name), name, limit)

    def flag(self, name: str) -> bool:
        """True or false; false by default."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise InvalidRequestError(f"{name} is {shown(value)}; expected true or false.", param=name)
        return bool(value)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A finite number within bounds."""
        value = self.get(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # NaN is within no bounds
            raise InvalidRequestError(
                f"{name} is {shown(value)}; expected a number from {low:g} to {high:g}.", param=name
            )
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds, or None."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidRequestError(
                f"{name} is {shown(value)}; expected a whole number from {low:,} to {high:,}.", param=name
            )
        return value

    def sampling(self, *, max_tokens: int, temperature: float) -> Sampling:
        """The settings of generation, with the defaults of a route."""
        wish = self.integer("max_completion_tokens", 1, MAX_TOKENS_ASKED)
        wish = self.integer("max_tokens", 1, MAX_TOKENS_ASKED) if wish is None else wish
        return Sampling(
            max_tokens=max_tokens if wish is None else wish,
            temperature=self.number("temperature", temperature, 0, 2),
            top_p=self.number("top_p", 1.0, 0, 1),
            seed=self.integer("seed", 0, MAX_SEED),
            stop=self._stop(),
        )

    def strength(self) -> float:
        """The share of a prefix that is attended to, asked for in percent; all of it by default."""
        return self.number("strength", 100, 0, 100) / 100

    def messages(self) -> list[Message]:
        """The turns of a conversation."""
        listed = self.get("messages")
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_MESSAGES:
            raise InvalidRequestError(
                f"messages is {shown(listed)}; expected a list of 1 to {MAX_MESSAGES} messages.", param="messages"
            )
        return [_message(entry, f"messages[{index}]") for index, entry in enumerate(listed)]

    def _stop(self) -> tuple[str, ...]:
        value = self.get("stop")
        listed = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or len(listed) > MAX_STOPS:
            raise InvalidRequestError(
                f"stop is {shown(value)}; expected a text, or a list of up to {MAX_STOPS}.", param="stop"
            )
        return tuple(check_text(text, "stop", MAX_STOP_CHARACTERS) for text in listed)


def check_text(value: Any, name: str, limit: int = MAX_PROMPT_CHARACTERS) -> str:
    """A text under a cap that UTF-8 can hold.

    Raises:
        InvalidRequestError: It is not.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} is {shown(value)}; expected a text.", param=name)
    if len(value) > limit:
        raise InvalidRequestError(
            f"{name} has {len(value):,} characters; expected at most {limit:,}. Shorten it.", param=name
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds half a character (U+{ord(value[error.start]):04X}) at position {error.start}. "
            "Send it as valid UTF-8.",
            param=name,
        ) from None
    return value


def _message(entry: Any, name: str) -> Message:
    if not isinstance(entry, dict) or entry.get("role") not in ROLES:
        raise InvalidRequestError(
            f"{name} is {shown(entry)}; expected an object with content and a role of {', '.join(ROLES)}.",
            param="messages",
        )
    role = "system" if entry["role"] == "developer" else str(entry["role"])
    return {"role": role, "content": check_text(_content(entry.get("content")), f"{name}.content")}


def _content(content: Any) -> Any:
    """Text parts of one message as one text; anything else as it is, to be refused."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """A value as a refusal quotes it, cut where it is long."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None:
        return "missing"
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a very large number"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
