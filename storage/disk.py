"""The full disk, told in a sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import StudioError


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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(doing) from error


def disk_full(doing: str) -> DiskFullError:
    """The error for a disk that filled up while `doing`."""
    return DiskFullError(
        f"The disk is full, so nothing was kept of what was under way while {doing}. "
        "Free some space (the page lists disk use by kind) and do it again."
    )
