"""Run by Alembic for every command; the connection comes from `storage.migrate`."""

from typing import Any, Literal

from alembic import context

from storage.schema.base import UtcDateTime
from storage.schema.tables import METADATA


def render_item(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Writes our own type as the one beneath it, so that old migrations need none of today's code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite cannot change a column in place: a batch copies the table instead.
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
