"""Sessions of the database: what they promise, and how they refuse."""

import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from storage.database import Database, open_database
from storage.disk import DiskFullError
from storage.errors import BusyError
from storage.schema.base import new_id
from storage.schema.dataset import Dataset
from storage.schema.job import JobEvent
from storage.settings import Settings


def names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.execute(text("SELECT name FROM datasets ORDER BY name")).scalars())


def add_datasets(session: Session, count: int = 1) -> None:
    session.add_all(Dataset(name="x" * 200) for _ in range(count))
    session.flush()


def test_write_commits_at_its_end_and_rows_stay_usable(database: Database) -> None:
    with database.write() as session:
        dataset = Dataset(name="kept")
        session.add(dataset)
    assert names(database) == ["kept"]
    assert dataset.name == "kept"
    assert dataset.created_at.tzinfo is not None


def test_rows_that_were_read_stay_usable(database: Database) -> None:
    with database.write() as session:
        session.add(Dataset(id="one", name="kept"))
    with database.read() as session:
        dataset = session.get_one(Dataset, "one")
    assert dataset.name == "kept"


def test_write_that_raises_changes_nothing(database: Database) -> None:
    def write_and_break() -> None:
        with database.write() as session:
            session.add(Dataset(name="lost"))
            session.flush()
            raise KeyError("something else went wrong")

    with pytest.raises(KeyError, match="something else"):
        write_and_break()
    assert names(database) == []


def test_read_refuses_to_write(database: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"), database.read() as session:
        add_datasets(session)


def test_reader_sees_one_state_while_another_writes(database: Database) -> None:
    with database.read() as session:
        before = session.execute(text("SELECT count(*) FROM datasets")).scalar_one()
        with database.write() as writer:
            writer.add(Dataset(name="new"))
        after = session.execute(text("SELECT count(*) FROM datasets")).scalar_one()
    assert before == after == 0
    assert names(database) == ["new"]


def test_row_without_what_it_refers_to_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), database.write() as session:
        session.add(JobEvent(job_id=new_id(), attempt=1, kind="log", data={}))


def test_connections_promise_what_the_tables_need(database: Database) -> None:
    with database.write() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_reading_first_and_writing_later_waits_for_another_writer(database: Database) -> None:
    """A transaction that begins as a reader would be refused at once here, and the count would be lost."""

    def count_up() -> None:
        for _ in range(20):
            with database.write() as session:
                number = session.execute(text("SELECT count(*) FROM datasets")).scalar_one()
                session.add(Dataset(name=f"{number:03d}"))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(database) == [f"{number:03d}" for number in range(80)]


def test_writers_that_wait_get_their_turn(database: Database, settings: Settings) -> None:
    """SQLite's own waiting sleeps up to 0.1 s; beside one that writes without a pause, that is for seconds."""
    over = threading.Event()
    other = open_database(settings)

    def write_on() -> None:
        while not over.is_set():
            with other.write() as session:
                session.add(Dataset(name="busy"))

    thread = threading.Thread(target=write_on)
    thread.start()
    waits = []
    try:
        for _ in range(40):
            started = time.monotonic()
            with database.write() as session:
                session.execute(text("SELECT 1"))
                waits.append(time.monotonic() - started)
    finally:
        over.set()
        thread.join()
        other.close()
    assert sorted(waits)[-4] < 0.5


def test_held_lock_is_told_as_busy(settings: Settings) -> None:
    database = open_database(replace(settings, busy_timeout_s=0.02))
    with closing(sqlite3.connect(settings.home / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(BusyError, match=r"for more than 0\.02 seconds"),
            database.write() as session,
        ):
            add_datasets(session)
    database.close()


def test_lock_is_seen_without_waiting_for_it(database: Database, settings: Settings) -> None:
    assert database.is_free()
    with closing(sqlite3.connect(settings.home / "studio.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not database.is_free(0.05)
    assert database.is_free()
    with database.write() as session:
        add_datasets(session)


def test_full_disk_is_told_in_a_sentence(database: Database) -> None:
    with database.write() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(DiskFullError, match="disk is full"), database.write() as session:
        add_datasets(session, count=500)
    assert names(database) == []
