"""Writes the migration for what changed in `storage/schema`: `python -m storage.migrations.new 0002 "Add a column"`."""

import sys
import tempfile
from pathlib import Path

from alembic import command

from storage.database import sqlite_engine
from storage.migrate import alembic_config


def write_migration(revision: str, message: str) -> None:
    """Compares the tables with those that the migrations so far make, and writes the difference to `versions/`.

    Args:
        revision: Number of the migration, such as `0002`.
        message: What it does; it becomes the docstring and part of the file's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(f"sqlite:///{Path(folder) / 'scratch.db'}", begin="BEGIN")
        with engine.begin() as connection:
            config = alembic_config(connection)
            command.upgrade(config, "head")
            command.revision(config, message, autogenerate=True, rev_id=revision)
        engine.dispose()


if __name__ == "__main__":
    write_migration(sys.argv[1], sys.argv[2])
