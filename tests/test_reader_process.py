"""The reader that waits: taken by the next upload, replaced after it, and gone when it is not wanted."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from storage.artifacts import ArtifactStore
from storage.errors import InvalidInputError
from storage.settings import Settings
from storage.tables.parse import parse_upload
from storage.tables.reader_process import ReaderProcesses


@pytest.fixture
def processes() -> Iterator[ReaderProcesses]:
    processes = ReaderProcesses(keep_warm=True)
    yield processes
    processes.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,y\n")
    return path


def children() -> set[int]:
    """Child processes of this one, whatever they do."""
    return {child.pid for child in psutil.Process().children()}


def test_an_upload_takes_the_reader_that_waits_and_leaves_another(
    processes: ReaderProcesses, path: Path, settings: Settings, store: ArtifactStore
) -> None:
    before = children()
    processes.warm_up()
    (waiting,) = children() - before
    processes.warm_up()
    assert children() - before == {waiting}
    table = parse_upload([("t.csv", path)], store, folder=settings.home / "uploads", processes=processes)
    assert table.num_rows == {"train": 2}
    (next_one,) = children() - before
    assert next_one != waiting


def test_a_reader_that_died_while_it_waited_is_replaced(
    processes: ReaderProcesses, path: Path, settings: Settings, store: ArtifactStore
) -> None:
    before = children()
    processes.warm_up()
    (waiting,) = children() - before
    psutil.Process(waiting).kill()
    time.sleep(0.2)
    table = parse_upload([("t.csv", path)], store, folder=settings.home / "uploads", processes=processes)
    assert table.num_rows == {"train": 2}


def test_a_refusal_leaves_the_next_upload_a_fresh_reader(
    processes: ReaderProcesses, path: Path, settings: Settings, store: ArtifactStore, tmp_path: Path
) -> None:
    processes.warm_up()
    broken = tmp_path / "broken.csv"
    broken.write_text("text,label\na\n")
    with pytest.raises(InvalidInputError, match="Row 1"):
        parse_upload([("t.csv", broken)], store, folder=settings.home / "uploads", processes=processes)
    assert parse_upload([("t.csv", path)], store, folder=settings.home / "uploads", processes=processes).num_rows


def test_no_reader_waits_unless_that_is_asked_for_nor_after_the_end(processes: ReaderProcesses) -> None:
    before = children()
    ReaderProcesses().warm_up()
    assert children() == before
    processes.warm_up()
    processes.close()
    processes.warm_up()
    assert children() == before
