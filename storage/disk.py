"""The full disk, told in a sentence."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import StudioError
from storage.settings import Settings

MIN_ROOM_BYTES = 30_000_000
"""With less, a trainer that starts can write neither its log nor a checkpoint, and a database no further page."""


class DiskFullError(StudioError):
    """There is no room left on the disk."""

    code = "disk_full"
    http_status = 507


@contextmanager
def refusing_full_disk(doing: str) -> Iterator[None]:
    """Turns the system's word for a full disk, or a used-up quota, into a sentence.

    Args:
        doing: What was under way, as it follows "while", such as "storing the upload".

    Raises:
        DiskFullError: The block ran out of room.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(doing) from error


def is_full(error: OSError) -> bool:
    """Whether the system means a full disk, or a quota that is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def lack_of_room(settings: Settings) -> str | None:
    """Why no job can start or be written down, where home folder or artifacts have next to no room left."""
    for folder in (settings.home, Path(settings.artifacts)):
        free_bytes = shutil.disk_usage(folder).free if folder.is_dir() else MIN_ROOM_BYTES
        if free_bytes < MIN_ROOM_BYTES:
            return (
                f"The disk of {folder} has {free_bytes / 1e6:,.0f} MB left, so no further job starts. "
                "Free some room (the page lists disk use by kind); jobs that wait then start by themselves."
            )
    return None


def disk_full(doing: str) -> DiskFullError:
    """The error for a disk that filled up while `doing`."""
    return DiskFullError(
        f"The disk is full, so nothing was kept of what was under way while {doing}. "
        "Free some space (the page lists disk use by kind) and do it again."
    )
