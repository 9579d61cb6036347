"""Text with its special characters made visible, as HTML."""

import unicodedata

from app.ui.markup import escape

SIGNS = {
    " ": "·",
    "\t": "⇥",
    "\n": "↵\n",
    "\r": "␍",
    "\xa0": "⍽",
    "\ufeff": "BOM",
    "\u200b": "ZWSP",
    "\u200c": "ZWNJ",
    "\u2028": "LS",
    "\u2029": "PS",
    "\ufffd": "\ufffd",
}
JOINER = "\u200d"
"""Holds emoji together, and would tear them apart if it were shown."""


def revealed(text: str) -> str:
    """Text in which every space, tab, line end and invisible character has a sign of its own."""
    return "".join(_sign(character) for character in text)


def odd_revealed(text: str) -> str:
    """The same for what no one expects in a text, and for spaces at its ends; ordinary spaces stay."""
    body = text.strip(" ")
    start = len(text) - len(text.lstrip(" "))
    inner = "".join(" " if character == " " else _sign(character) for character in body)
    return revealed(text[:start]) + inner + revealed(text[start + len(body) :])


def _sign(character: str) -> str:
    if character in SIGNS:
        return f'<i class="ps-sign">{SIGNS[character]}</i>'
    if character == JOINER or unicodedata.category(character) not in ("Cc", "Cf"):
        return escape(character)
    return f'<i class="ps-sign">U+{ord(character):04X}</i>'
