"""Files that are whole or absent, whatever happens while they are written; knows nothing of what is in them."""

import os
from pathlib import Path

UNFINISHED = ".tmp"
"""Ending of the name under which a file lies until it is whole; one that stays was left by a killed process."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes under a temporary name first, so that nobody ever sees half a file.

    Args:
        path: The file; an older one under this name is replaced.
        data: All of it.

    Raises:
        OSError: It cannot be written. The half that was written is gone then: on a full disk it would keep the very
            room that is missing.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
