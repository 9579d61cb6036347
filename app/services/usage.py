"""What is kept on this machine, by kind, and the way to be rid of what can be made again."""

from app.context import AppContext
from storage.cache import clear_cache, token_cache
from storage.usage import usage


def by_kind(context: AppContext) -> dict[str, int]:
    """Bytes on disk by kind; see `storage.usage.usage` for the kinds."""
    return usage(context.database, context.store, context.settings)


def clear_tokens(context: AppContext) -> int:
    """Deletes the kept token ids; the next training on a large table encodes its rows again.

    Returns:
        Bytes that were freed.
    """
    return clear_cache(token_cache(context.settings))
