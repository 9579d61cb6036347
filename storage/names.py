"""What a thing may be called."""

import unicodedata

from storage.errors import InvalidInputError
from storage.settings import MAX_NAME_CHARACTERS


def check_name(name: str, *, limit: int = MAX_NAME_CHARACTERS) -> str:
    """The name without white space around it.

    Args:
        name: What a user typed, or the name of a file.
        limit: The most characters it may have.

    Raises:
        InvalidInputError: It is empty, too long, or has characters that cannot be shown.
    """
    name = name.strip()
    if not name:
        raise InvalidInputError(f"The name is empty; expected 1 to {limit} characters.")
    if len(name) > limit:
        raise InvalidInputError(f"The name has {len(name)} characters; expected 1 to {limit}. Shorten it.")
    hidden = next((character for character in name if unicodedata.category(character) in ("Cc", "Cs")), None)
    if hidden is not None:
        raise InvalidInputError(
            f"The name holds the character U+{ord(hidden):04X}, which cannot be shown. Type the name again without it."
        )
    return name


def numbered(name: str, number: int, *, limit: int = MAX_NAME_CHARACTERS) -> str:
    """The name with a number behind it, such as `Reviews 2`, cut so that both fit."""
    ending = f" {number}"
    return name[: limit - len(ending)].rstrip() + ending
