"""The database comes to the tables of this version, or is left as it was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, String, text

from storage.database import Database, sqlite_engine
from storage.errors import SettingsError
from storage.migrate import alembic_config, migrate
from storage.schema.tables import METADATA
from storage.settings import Settings, read_settings
from tests.stored import add_dataset


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    return read_settings({"PREFIX_STUDIO_HOME": str(tmp_path / "home")})


def execute(settings: Settings, statement: str) -> None:
    with closing(sqlite3.connect(settings.home / "studio.db")) as connection, connection:
        connection.execute(statement)


def test_migrations_make_the_tables_that_the_models_describe(settings: Settings) -> None:
    engine = sqlite_engine(settings.database_url, begin="BEGIN")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    engine.dispose()
    assert differences == []


def test_downgrade_leaves_no_table_behind(settings: Settings) -> None:
    engine = sqlite_engine(settings.database_url, begin="BEGIN IMMEDIATE", foreign_keys=False)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
    engine.dispose()
    assert [name for name in tables if not name.startswith("sqlite_")] == ["alembic_version"]


def test_migrate_makes_a_private_home_folder_and_needs_no_backup(
    fresh: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert migrate(fresh) is None
    assert fresh.home.stat().st_mode & 0o777 == 0o700
    assert not (fresh.home / "backups").exists()


def test_migrate_again_changes_nothing(settings: Settings) -> None:
    assert migrate(settings) is None
    assert not (settings.home / "backups").exists()


def test_upgrade_backs_up_what_was_there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    upgraded = []

    def upgrade(config: object, revision: str) -> None:
        upgraded.append(revision)

    execute(settings, "INSERT INTO datasets (id, owner, name, created_at) VALUES ('a', 'local', 'kept', '2026-01-01')")
    monkeypatch.setattr("storage.migrate.ScriptDirectory.get_current_head", lambda self: "9999")
    monkeypatch.setattr("storage.migrate.command.upgrade", upgrade)
    backup = migrate(settings)

    assert upgraded == ["head"]
    assert backup is not None
    assert backup.parent == settings.home / "backups"
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("SELECT name FROM datasets").fetchall() == [("kept",)]


def test_failed_upgrade_leaves_the_database_as_it_was(fresh: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade = command.upgrade

    def upgrade_and_break(*arguments: str) -> None:
        upgrade(*arguments)  # type: ignore[arg-type]
        raise RuntimeError("the power went")

    monkeypatch.setattr("storage.migrate.command.upgrade", upgrade_and_break)
    with pytest.raises(RuntimeError, match="the power went"):
        migrate(fresh)
    with closing(sqlite3.connect(fresh.home / "studio.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_upgrade_that_rebuilds_a_table_keeps_the_rows_that_refer_to_it(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuild(config: Config, revision: str) -> None:
        operations = Operations(MigrationContext.configure(config.attributes["connection"]))
        with operations.batch_alter_table("datasets", recreate="always") as batch:
            batch.add_column(Column("note", String(10)))

    with database.write() as session:
        add_dataset(session)
    monkeypatch.setattr("storage.migrate.ScriptDirectory.get_current_head", lambda self: "9999")
    monkeypatch.setattr("storage.migrate.command.upgrade", rebuild)
    migrate(settings)
    with database.read() as session:
        assert session.execute(text("SELECT note FROM datasets")).scalars().all() == [None]
        assert session.execute(text("SELECT count(*) FROM dataset_versions")).scalar_one() == 1


def test_upgrade_that_would_orphan_rows_is_undone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        settings,
        "INSERT INTO job_events (job_id, attempt, kind, data, created_at) "
        "VALUES ('gone', 1, 'log', '{}', '2026-01-01')",
    )
    monkeypatch.setattr("storage.migrate.ScriptDirectory.get_current_head", lambda self: "9999")
    monkeypatch.setattr("storage.migrate.command.upgrade", lambda config, revision: None)
    with pytest.raises(SettingsError, match="was undone"):
        migrate(settings)


def test_newer_database_is_refused_and_left_alone(settings: Settings) -> None:
    execute(settings, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"newer version of Prefix Studio .* 9999"):
        migrate(settings)
    with closing(sqlite3.connect(settings.home / "studio.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_database_of_another_program_is_refused(fresh: Settings) -> None:
    fresh.home.mkdir()
    execute(fresh, "CREATE TABLE recipes (id)")
    with pytest.raises(SettingsError, match="not those of Prefix Studio"):
        migrate(fresh)


def test_file_that_is_no_database_is_refused(fresh: Settings) -> None:
    fresh.home.mkdir()
    (fresh.home / "studio.db").write_text("a letter to a friend, of more than a hundred bytes " * 9)
    with pytest.raises(SettingsError, match="cannot be used as the database: file is not a database"):
        migrate(fresh)


def test_migrated_database_opens(fresh: Settings) -> None:
    migrate(fresh)
    database = Database(fresh.database_url)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    database.close()
