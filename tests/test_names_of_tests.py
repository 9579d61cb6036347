"""What tests are called: processes that share the tests refuse to begin when a name differs between them."""

import pytest


def test_no_test_is_named_by_the_bytes_of_a_packed_file(request: pytest.FixtureRequest) -> None:
    assert [item.nodeid for item in request.session.items if is_named_by_bytes(item)] == []


def is_named_by_bytes(item: pytest.Item) -> bool:
    """Whether the head of a packed file, which holds the clock, stands in the name of this test."""
    case = getattr(item, "callspec", None)
    heads = [value[:10] for value in case.params.values() if isinstance(value, bytes)] if case else []
    return any(ascii(head)[2:-1] in item.nodeid for head in heads if b"\0" in head)
