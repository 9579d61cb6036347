"""Whether the disk has room for what a training will write."""

import shutil
from pathlib import Path

from storage.disk import DiskFullError
from storage.settings import Settings


def require_room(settings: Settings, needed_bytes: int, reserve_bytes: int = 0) -> None:
    """Refuses a training for which there is no room, before any of it is done.

    Args:
        settings: Where artifacts and database lie.
        needed_bytes: About what it takes beside the artifacts: checkpoints, prefixes of its evaluations, its prefix.
        reserve_bytes: What is to be left on either disk for the database, logs and uploads.

    Raises:
        DiskFullError: With what it needs, what there is, and what to do.
    """
    _require(Path(settings.artifacts), {"checkpoints and prefixes": needed_bytes, "all else": reserve_bytes})
    _require(settings.home, {"database and logs": reserve_bytes})


def _require(folder: Path, needs: dict[str, int]) -> None:
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, sum(needs.values())
    if free < needed:
        listed = " and ".join(f"{_megabytes(size)} for {purpose}" for purpose, size in needs.items() if size)
        raise DiskFullError(
            f"The disk of {folder} has {_megabytes(free)} left and this training needs {_megabytes(needed)}: {listed}. "
            "Free some room (the page lists disk use by kind), then start it again."
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes < 1e7 else f"{size_bytes / 1e6:,.0f} MB"
