"""Memory of the CPU that a step frees stays with the process for the next step.

glibc gives blocks above 32 MB, and the free end of its heap, back to the system at once. A training step frees and
takes the same gigabytes again, and the kernel must clear each new page: that took a third of the time of some steps.
"""

import ctypes
import logging
import sys
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of settings in glibc's malloc.h."""

TOP_PAD_BYTES = 64 << 20
"""What the heap grows by, so that it grows rarely."""

NEVER = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tells malloc to keep what is freed, for the rest of the process; only where malloc is glibc's.

    Returns:
        Whether that was done.
    """
    libc = _libc()
    if libc is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    is_done = all(libc.mallopt(name, value) == 1 for name, value in settings)
    logger.debug("malloc keeps freed memory: %s", is_done)
    return is_done


def give_back_memory() -> None:
    """Gives freed pages back to the system after all, wherever in the heap they lie."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _libc() -> Any | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
