"""What is kept on this machine, by kind."""

from app.context import AppContext
from storage.usage import usage


def by_kind(context: AppContext) -> dict[str, int]:
    """Bytes on disk: datasets, prefixes, runs, base models, files about to be swept, the database and its copies."""
    return usage(context.database, context.store, context.settings)
