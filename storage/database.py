"""The database: one engine for writers, one for readers, and a session for each piece of work."""

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, TimeoutError
from sqlalchemy.orm import Session as Session  # callers name it without importing SQLAlchemy themselves
from sqlalchemy.orm import sessionmaker

from storage.disk import disk_full
from storage.errors import BusyError
from storage.schema.tables import METADATA
from storage.settings import Settings

TAKE_LOCK = "BEGIN IMMEDIATE"
ASK_AGAIN_S = (0.001, 0.004)


class Database:
    """Sessions on the database of one home folder.

    Args:
        url: SQLAlchemy URL of the database.
        busy_timeout_s: How long a session waits for another process's lock.

    SQLite lets one process write at a time. A transaction that reads first and writes later is refused at once when
    another wrote in between, whatever the timeout; writers therefore take the lock when they begin.
    """

    # Held here so that whoever opens the database has every table, and with it what foreign keys refer to.
    metadata = METADATA

    def __init__(self, url: str, busy_timeout_s: float = Settings.busy_timeout_s) -> None:
        self._busy_timeout_s = busy_timeout_s
        self._write_engine = sqlite_engine(url, begin=TAKE_LOCK, busy_timeout_s=busy_timeout_s)
        self._read_engine = sqlite_engine(url, begin="BEGIN", query_only=True, busy_timeout_s=busy_timeout_s)
        self._writer = sessionmaker(self._write_engine, expire_on_commit=False)
        self._reader = sessionmaker(self._read_engine, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing; its rows may be used after it ends.

        Raises:
            BusyError: No connection came free in time.
        """
        with told_in_sentences(self._busy_timeout_s), self._reader() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits when its block ends, and changes nothing when the block raises.

        Raises:
            BusyError: Another writer held the lock for longer than the timeout.
            DiskFullError: There was no room for the change.
        """
        with told_in_sentences(self._busy_timeout_s), self._writer.begin() as session:
            yield session

    def is_free(self, wait_s: float = 0.0) -> bool:
        """Whether a writer would be let in within so many seconds; nothing is written."""
        deadline = time.monotonic() + min(wait_s, self._busy_timeout_s)
        with self._write_engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.rollback()
            driver.execute("PRAGMA busy_timeout = 0")
            try:
                while is_held := _is_held(driver):
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(ASK_AGAIN_S[1])
            finally:
                driver.rollback()
                driver.execute(_waits(self._busy_timeout_s))
        return not is_held

    def close(self) -> None:
        """Closes every connection."""
        self._write_engine.dispose()
        self._read_engine.dispose()


def open_database(settings: Settings) -> Database:
    """Opens the database that the settings name; `storage.migrate.migrate` has made its tables."""
    return Database(settings.database_url, settings.busy_timeout_s)


def sqlite_engine(
    url: str,
    *,
    begin: str,
    query_only: bool = False,
    foreign_keys: bool = True,
    busy_timeout_s: float = Settings.busy_timeout_s,
) -> Engine:
    """An engine whose connections promise what the tables need.

    Args:
        url: SQLAlchemy URL of a SQLite file.
        begin: Statement that opens each transaction. The driver's own BEGIN is switched off, since it comes late.
        query_only: Refuse every change.
        foreign_keys: Hold rows to their references; off only while tables are rebuilt.
        busy_timeout_s: How long a statement waits for another process's lock.
    """
    engine = create_engine(
        make_url(url), connect_args={"isolation_level": None, "timeout": busy_timeout_s}, max_overflow=40
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: sqlite3.Connection, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(_waits(busy_timeout_s))
        cursor.execute("PRAGMA journal_mode = WAL")
        # FULL: a job that was acknowledged survives the loss of power.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        cursor.execute(f"PRAGMA query_only = {'ON' if query_only else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        if begin == TAKE_LOCK:
            _wait_for_lock(connection, busy_timeout_s)
        else:
            connection.exec_driver_sql(begin)

    return engine


def _wait_for_lock(connection: Connection, timeout_s: float) -> None:
    """Begins as the one writer, as soon as that may be.

    SQLite's own way of waiting sleeps longer the longer it has waited, up to 0.1 s: a process that writes all the time
    then keeps the lock to itself for seconds. Here all who wait ask again every few milliseconds; where they are many,
    each has waited longer and asks less often.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    started = time.monotonic()
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        # Asked below SQLAlchemy, whose errors cost more than the question.
        while _is_held(driver) and (waited_s := time.monotonic() - started) < timeout_s:
            time.sleep(random.uniform(0.5, 1.5) * min(max(waited_s / 8, ASK_AGAIN_S[0]), ASK_AGAIN_S[1]))
        if not driver.in_transaction:
            connection.exec_driver_sql(TAKE_LOCK)
    finally:
        driver.execute(_waits(timeout_s))


def _waits(seconds: float) -> str:
    return f"PRAGMA busy_timeout = {round(seconds * 1000)}"


def _is_held(driver: sqlite3.Connection) -> bool:
    """Takes the lock, unless another process holds it; any other fault is left to the next who asks."""
    try:
        driver.execute(TAKE_LOCK)
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return False


@contextmanager
def told_in_sentences(waited_s: float = Settings.busy_timeout_s) -> Iterator[None]:
    """Turns the database's word for a held lock, or a full disk, into a sentence.

    Args:
        waited_s: How long the block waits for a lock.

    Raises:
        BusyError: Another process held the lock, or every connection was taken, for too long.
        DiskFullError: There was no room.
    """
    try:
        yield
    except TimeoutError as error:
        raise _busy(waited_s) from error
    except OperationalError as error:
        # The low byte is the kind of error; the rest says more about it.
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _busy(waited_s) from error
        if code == sqlite3.SQLITE_FULL:
            raise disk_full("writing to the database") from error
        raise


def _busy(waited_s: float) -> BusyError:
    return BusyError(
        f"The database was in use by another process for more than {waited_s:g} seconds. Try again shortly."
    )
