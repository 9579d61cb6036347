"""Text of users in Markdown, where it may act on nothing."""

import re

DIRECTIONS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the writing direction of what comes after them."""


def fenced(text: str, language: str = "text") -> str:
    """A block that no text can break out of: its fence is longer than any run of backticks inside."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def code(text: str) -> str:
    """Text within a line, as it is."""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def plain(text: str) -> str:
    """Text in which Markdown and HTML find nothing to act on."""
    words = " ".join(DIRECTIONS.sub(lambda found: f"(U+{ord(found[0]):04X})", text).split())
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>()#+!|~&" else each for each in words)


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
