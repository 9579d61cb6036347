"""Brings the database to the tables of this version, as the app starts."""

import logging
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from storage.database import sqlite_engine, told_in_sentences
from storage.disk import refusing_full_disk
from storage.errors import SettingsError
from storage.settings import Settings

logger = logging.getLogger(__name__)


def migrate(settings: Settings) -> Path | None:
    """Makes the tables, or upgrades those of an earlier version after a copy of the database was put aside.

    Args:
        settings: `home` is made where it is missing; the copy goes to `backups` beneath it.

    Returns:
        The copy, where there was something to upgrade.

    Raises:
        SettingsError: The database belongs to a newer version, or the file is something else.
        BusyError: Another process holds the database.
        DiskFullError: There is no room for the copy or the upgrade.
    """
    path = _database_path(settings)
    with refusing_full_disk("setting up the home folder"):
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A batch copies a table and drops the old one, which with foreign keys on would delete the rows that refer to it.
    engine = sqlite_engine(settings.database_url, begin="BEGIN IMMEDIATE", foreign_keys=False)
    try:
        with told_in_sentences(), engine.begin() as connection:
            return _upgrade(connection, settings, path)
    except DatabaseError as error:
        raise SettingsError(
            f"{path} cannot be used as the database: {error.orig}. Move the file away, or set PREFIX_STUDIO_HOME to "
            "another folder."
        ) from error
    finally:
        engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for the migrations of this package, whatever the working folder."""
    config = Config()
    # A percent sign in the path would be read as the start of a variable.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, settings: Settings, path: Path) -> Path | None:
    config = alembic_config(connection)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return None
    _refuse_foreign(connection, script, current, path)
    backup = None if current is None else _back_up(settings, path, current)
    command.upgrade(config, "head")
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
        raise SettingsError(
            f"The upgrade of {path} was undone, since rows would have lost what they refer to. Go back to the version "
            f"that you had; a copy of the database is in {settings.home / 'backups'}."
        )
    logger.info("database upgraded from %s to %s", current, head)
    return backup


def _refuse_foreign(connection: Connection, script: ScriptDirectory, current: str | None, path: Path) -> None:
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise SettingsError(
            f"{path} was written by a newer version of Prefix Studio (its tables are at {current}, this version knows "
            f"up to {script.get_current_head()}). Start the newer version, or set PREFIX_STUDIO_HOME to another folder."
        )
    if current is None and inspect(connection).get_table_names():
        raise SettingsError(
            f"{path} holds tables that are not those of Prefix Studio. Set PREFIX_STUDIO_HOME to another folder."
        )


def _back_up(settings: Settings, path: Path, revision: str) -> Path:
    folder = settings.home / "backups"
    backup = folder / f"{path.stem}-{revision}-{datetime.now(UTC):%Y%m%dT%H%M%S}.db"
    with refusing_full_disk("copying the database before its upgrade"):
        folder.mkdir(exist_ok=True, mode=0o700)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
    return backup


def _database_path(settings: Settings) -> Path:
    return Path(make_url(settings.database_url).database or settings.home / "studio.db")
