"""What is kept only because making it again takes time: token ids of large tables, beneath `HOME/cache`."""

import os
from pathlib import Path

from storage.settings import Settings

MAX_FILES = 8
MAX_BYTES = 2_000_000_000
"""A million rows of a hundred tokens take 0.4 GB."""


def token_cache(settings: Settings) -> Path:
    """The folder of token ids, one file for each table and tokenizer."""
    return settings.home / "cache" / "tokens"


def note_use(path: Path) -> None:
    """Says that a file was used, so that others go before it."""
    os.utime(path)


def trim_cache(folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
    """Deletes the files that were used longest ago, until the rest keeps to the cap; the last one used stays.

    Args:
        folder: Of files that may go at any time; whoever has one mapped into memory keeps it.
        max_files: The most files to keep.
        max_bytes: The most bytes of all files together.
    """
    files = sorted(_files(folder), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for number, path in enumerate(files):
        total += path.stat().st_size
        if number > 0 and (number >= max_files or total > max_bytes):
            path.unlink(missing_ok=True)


def clear_cache(folder: Path) -> int:
    """Deletes every file, also those that are being written: their writers go on without.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for path in _files(folder):
        freed += path.stat().st_size
        path.unlink(missing_ok=True)
    return freed


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]
