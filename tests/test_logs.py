"""Log lines: JSON, with the job that they are about."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from storage.logs import log_job, set_up_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    set_up_logging("trainer", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_names_role_level_and_message(stream: io.StringIO) -> None:
    logging.getLogger("worker.trainer").info("loaded %s in\n%d s", "tiny", 3)
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "role": "trainer",
        "logger": "worker.trainer",
        "message": "loaded tiny in\n3 s",
    }


def test_line_names_the_job_from_log_job_on(stream: io.StringIO) -> None:
    with log_job("outer"):
        log_job("inner").close()
        logging.info("within")
    logging.info("after")
    assert [line.get("job_id") for line in lines(stream)] == ["outer", None]


def test_traceback_stays_within_its_line(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    # pytest keeps what is logged and sends it to another process, and half a character cannot be sent.
    ours = [handler for handler in root.handlers if getattr(handler, "stream", None) is stream]
    monkeypatch.setattr(root, "handlers", ours)
    try:
        raise ValueError("odd \ud800 text")
    except ValueError:
        logging.exception("failed")
    (line,) = lines(stream)
    assert line["traceback"].startswith("Traceback")
    assert "ValueError: odd" in line["traceback"]
