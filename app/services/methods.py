"""The ways to train a prefix as people are told of them, and which of their files leave PEFT's format."""

PLUS = "prefix-tuning-plus"

TITLES = {"prefix-tuning": "Prefix tuning", "prompt-tuning": "Prompt tuning", PLUS: "Prefix tuning+"}

OWN_TENSORS_NAME = "prefix.safetensors"
"""What the file of numbers is called in a download of our own format: another name, as PEFT cannot load it."""


def title_of(method: str) -> str:
    """What a method is called; one that is not known is called by its id."""
    return TITLES.get(method, method)


def is_own_format(method: str, *, has_encoder: bool) -> bool:
    """Whether a prefix leaves PEFT's format.

    Args:
        method: One of `worker.engine.recipe.Method`.
        has_encoder: Whether its base is an encoder-decoder, of whose prefixes PEFT holds a part at most.
    """
    return method == PLUS or has_encoder


def format_note(method: str, *, has_encoder: bool) -> str | None:
    """What is said beside the download of a prefix that is in our own format; None of one that PEFT loads.

    Args:
        method: See `is_own_format`.
        has_encoder: See `is_own_format`.
    """
    if not is_own_format(method, has_encoder=has_encoder):
        return None
    if method == PLUS:
        return (
            "The download is in this app's own format: another Prefix Studio can import it; PEFT and other programs "
            "cannot load it."
        )
    return (
        "The download is in this app's own format: another Prefix Studio can import it, its card loads it with "
        "transformers alone, and PEFT cannot load it."
    )
