"""Logs of every role: one JSON object a line on stderr, with the job it is about."""

import json
import logging
import sys
from contextlib import ExitStack
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)


def log_job(job_id: str) -> ExitStack:
    """Names the job that this thread's log lines are about, from now on.

    Args:
        job_id: The job. A thread that is started later does not take it over, and calls this itself.

    Returns:
        A context manager, for where the job's part of the work ends before the thread does.
    """
    stack = ExitStack()
    stack.callback(_job_id.reset, _job_id.set(job_id))
    return stack


def set_up_logging(role: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Sends the log lines of this process to stderr as JSON.

    Args:
        role: Name of the role, in every line.
        stream: Where the lines go instead.
        level: The least level that is kept.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # These write a line for every request that they send.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: `time`, `level`, `role`, `logger`, `message`, `job_id`, `traceback`."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        """One line for one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self.role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job_id := _job_id.get():
            line["job_id"] = job_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
