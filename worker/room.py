"""Room for a training where the inference role holds memory too: idle base models go before a trainer starts.

Training and inference share a device without a common process, so they agree by three rules. The dispatcher looks at
the free memory before it starts a trainer, asks the inference role to let idle base models go where it is short, and
waits a little while for one that is answering. The trainer sizes its passes by what is free then
(`worker.engine.token_budget`). The inference role loads no base while a training runs and too little is free
(`worker.inference.load_guard`).
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx

from storage.settings import Settings
from worker.devices import DeviceMemory

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
MAX_WAIT_S = 30.0
"""How long a training waits for an answer to end. After that it starts and takes what there is."""

SECRET_HEADER = "X-Prefix-Studio-Secret"

AskToUnload = Callable[[Settings, int], bool]
"""Asks the inference role for so many free bytes; whether a base model is still in use there."""


class Room:
    """Makes room for trainings, one device after another.

    Args:
        settings: Where the inference role says how it is reached.
        memory: Reads what is free.
        ask: Asks the inference role.
        clock: Seconds that never go back.

    Attributes:
        waits: Why a training does not start yet, a sentence by the id of its job.
    """

    def __init__(
        self,
        settings: Settings,
        memory: DeviceMemory,
        ask: "AskToUnload | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._ask = ask or ask_to_unload
        self._clock = clock
        self._waiting: dict[str, float] = {}
        self.waits: dict[str, str] = {}

    def is_there(self, job_id: str, device: str | None, needed_bytes: int) -> bool:
        """Whether a training may start now; False at most for `MAX_WAIT_S`, and only while it helps to wait.

        Args:
            job_id: The job that would start.
            device: The GPU, or None for the machine's own memory.
            needed_bytes: What it takes; 0 where that is not known.
        """
        is_there = (
            self._is_free(device, needed_bytes)
            or self._has_waited(job_id)
            or not self._ask(self._settings, needed_bytes)
            or self._is_free(device, needed_bytes)
        )
        if is_there:
            self._waiting, self.waits = {}, {}
        elif job_id not in self._waiting:
            logger.info("job %s waits for memory: %d MB, while a base model answers", job_id, needed_bytes // 10**6)
            self._waiting = {job_id: self._clock()}
            self.waits = {job_id: self._sentence(device, needed_bytes)}
        return is_there

    def _sentence(self, device: str | None, needed_bytes: int) -> str:
        free_bytes = self._memory.free_bytes(device) or 0
        return (
            f"Waits for memory: it needs about {needed_bytes / 1e9:,.1f} GB, and {free_bytes / 1e9:,.1f} GB are free "
            f"while a base model answers. It starts once that is done, after {MAX_WAIT_S:.0f} seconds at the latest."
        )

    def _is_free(self, device: str | None, needed_bytes: int) -> bool:
        free = self._memory.free_bytes(device) if needed_bytes else None
        return free is None or free >= needed_bytes

    def _has_waited(self, job_id: str) -> bool:
        since = self._waiting.get(job_id)
        return since is not None and self._clock() - since >= MAX_WAIT_S


def ask_to_unload(settings: Settings, needed_bytes: int) -> bool:
    """Asks the inference role to let idle base models go until so much is free.

    Returns:
        Whether it has base models that are answering at this moment; False where the role does not run.
    """
    try:
        told: dict[str, Any] = json.loads(settings.inference_file.read_text())
        answer = httpx.post(
            f"{told['url']}/internal/unload",
            json={"needed_bytes": needed_bytes},
            headers={SECRET_HEADER: told["secret"]},
            timeout=ASK_TIMEOUT_S,
            trust_env=False,
        ).raise_for_status()
        return bool(answer.json()["in_use"])
    except (OSError, ValueError, KeyError, httpx.HTTPError) as error:
        logger.debug("the inference role was not asked for memory: %s", error)
        return False
