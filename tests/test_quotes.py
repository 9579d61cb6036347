"""Names and cells in sentences stand as they are, in quotation marks and without backslashes."""

import pytest

from storage.quotes import MAX_CHARACTERS, quoted


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("label", "“label”"),
        ("it's", "“it's”"),
        ('O\'Brien "data"', '“O\'Brien "data"”'),
        ("C:\\new", "“C:\\new”"),
        (" yes ", "“ yes ”"),
        ("a\nb\t\0\x7f", "“a␊b␉␀␡”"),
        ("half \ud800", "“half \ufffd”"),
        (True, "true"),
        (None, "null"),
        (7, "7"),
        (["it's"], '["it\'s"]'),
        (["\ud800"], '["\ufffd"]'),
        (float("inf"), "Infinity"),
    ],
)
def test_a_value_is_shown_without_backslashes(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_a_long_value_is_cut() -> None:
    assert quoted("x" * 1000) == f"“{'x' * (MAX_CHARACTERS - 1)}…”"
    assert len(quoted(["x" * 1000])) == MAX_CHARACTERS
