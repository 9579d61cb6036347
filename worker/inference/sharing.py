"""One device for answers and trainings: the inference role gives memory up when asked, and takes none that is needed.

The other side of the agreement stands in `worker.room`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel

from storage.database import Database
from storage.errors import BusyError
from storage.jobs import list_jobs
from storage.schema.job import JobKind, JobStatus
from worker.inference.registry import BaseEntry

UNLOAD_TIMEOUT_S = 1.5
"""Idle bases are gone in a moment; whoever asks waits two seconds for the answer."""

WAIT_S = 10.0
"""How long a base waits for memory before its first answer is refused: a training may be about to end."""

POLL_S = 0.05
SPARE = 1.25
"""Memory of a base in use, with keys and values of its rows, as a multiple of its weights."""


class Holder(Protocol):
    """A base model that may be in memory; see `runner.Runner`."""

    name: str

    @property
    def is_loaded(self) -> bool:
        """Whether the base is in memory."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""

    def unload(self) -> None:
        """Asks for the memory of the base."""


class Room(BaseModel):
    """What the dispatcher asks for: so many free bytes for a training that is about to start."""

    needed_bytes: int


class LoadGuard:
    """Lets no base model into memory that a training needs.

    Args:
        database: Says whether a training runs.
        free_bytes: Free memory of the device that answers are computed on.
        wait_s: How long to wait for memory.
    """

    def __init__(self, database: Database, free_bytes: Callable[[], int], *, wait_s: float = WAIT_S) -> None:
        self._database = database
        self._free_bytes = free_bytes
        self._wait_s = wait_s

    def check(self, base: BaseEntry) -> None:
        """Waits until a base fits beside the trainings that run; called in the thread that is about to load it.

        Raises:
            BusyError: It still does not; without a training nothing is refused, since the estimate may be wrong.
        """
        needed = int(SPARE * weight_bytes(base.folder))
        deadline = time.monotonic() + self._wait_s
        while (free := self._free_bytes()) < needed and self._is_training():
            if time.monotonic() > deadline:
                raise BusyError(
                    f"The base model {base.name!r} needs about {needed / 1e9:.1f} GB of memory, and "
                    f"{free / 1e9:.1f} GB are free while a training runs. Ask again when it has ended, or pause it."
                )
            time.sleep(POLL_S)

    def _is_training(self) -> bool:
        with self._database.read() as session:
            # A job that answers a table holds its base already, and takes less than a training at each step.
            return any(job.kind is JobKind.TRAINING for job in list_jobs(session, JobStatus.RUNNING))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights of a base model as they lie on the disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


async def make_room(
    holders: Sequence[Holder], needed_bytes: int, free_bytes: Callable[[], int]
) -> dict[str, list[str]]:
    """Lets idle base models go, those used longest ago first, until enough is free.

    Args:
        holders: What may be in memory, the one used longest ago first.
        needed_bytes: What is to be free.
        free_bytes: What is free.

    Returns:
        `unloaded` and `in_use`: names of base models that went, and of those that are answering.
    """
    unloaded: list[str] = []
    for holder in [each for each in holders if each.is_loaded and each.is_idle]:
        if free_bytes() >= needed_bytes:
            break
        holder.unload()
        deadline = time.monotonic() + UNLOAD_TIMEOUT_S
        while holder.is_loaded and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        unloaded += [] if holder.is_loaded else [holder.name]
    return {"unloaded": unloaded, "in_use": [each.name for each in holders if each.is_loaded and not each.is_idle]}


def sharing_router(holders: Callable[[], Sequence[Holder]], free_bytes: Callable[[], int]) -> APIRouter:
    """`POST /internal/unload`, for the dispatcher of this machine.

    Args:
        holders: What may be in memory, the one used longest ago first.
        free_bytes: Free memory of the device.
    """
    router = APIRouter()

    @router.post("/internal/unload")
    async def unload(room: Room) -> dict[str, Any]:
        return await make_room(holders(), room.needed_bytes, free_bytes)

    return router
