"""Names and cells as sentences for people show them."""

import json
import re

MAX_CHARACTERS = 80
UNSEEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
PICTURES = 0x2400
"""Where Unicode keeps its pictures of control characters, in their order."""


def quoted(value: object) -> str:
    """A name or a cell in quotation marks, as it is: no backslashes, whatever quotes stand in it.

    Args:
        value: A text, which is cut where it is long and whose control characters are shown as pictures; or any other
            value that came through JSON, which is told as JSON.
    """
    if isinstance(value, str):
        return f"“{_shown(value)}”"
    return _shown(json.dumps(value, ensure_ascii=False, default=str))


def _shown(text: str) -> str:
    short = text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
    return UNSEEN.sub(_picture, short)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\u2421" if code == 0x7F else chr(PICTURES + code) if code < 0x20 else "\ufffd"
