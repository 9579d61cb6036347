"""Which base models are in memory: one runner each, the one used longest ago makes room."""

import logging
import threading
from collections import OrderedDict

from storage.bases.catalog import fingerprint_cache
from storage.bases.fingerprint import fingerprint
from storage.settings import Settings
from worker.engine.base import load_base
from worker.inference.limits import Limits
from worker.inference.registry import BaseEntry, Registry
from worker.inference.resident import Resident
from worker.inference.runner import IDLE_S, Runner
from worker.inference.sharing import LoadGuard

logger = logging.getLogger(__name__)

MAX_LOADED = 2
LOOK_S = 0.5
"""Seconds between two looks for a base that could make room."""


class Residents:
    """The runners of the base models.

    Args:
        settings: Where fingerprints are remembered.
        registry: Where prefixes are found.
        idle_s: A base that nobody asked for so long is unloaded.
        limits: How much callers may take of each base at once.
        guard: Keeps memory for trainings; None loads whatever is asked for.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        *,
        idle_s: float = IDLE_S,
        limits: Limits | None = None,
        guard: LoadGuard | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._idle_s = idle_s
        self._limits = limits
        self._guard = guard
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self._runners: OrderedDict[BaseEntry, Runner] = OrderedDict()
        # Bases in memory and those being loaded, also of folders that were replaced since.
        self._holding: dict[BaseEntry, Runner] = {}

    def runner(self, base: BaseEntry) -> Runner:
        """The runner of a base; one of the same base in an earlier state ends when it has answered."""
        with self._changed:
            for earlier in [entry for entry in self._runners if _is_earlier(entry, base)]:
                self._runners.pop(earlier).unload()
            if base not in self._runners:
                self._runners[base] = self._new_runner(base)
            self._runners.move_to_end(base)
            return self._runners[base]

    def runners(self) -> list[Runner]:
        """The runners that there are, the one used longest ago first."""
        with self._changed:
            return list(self._runners.values())

    def loaded(self) -> list[str]:
        """Names of the base models that are in memory."""
        with self._changed:
            return [runner.name for runner in self._runners.values() if runner.is_loaded]

    def _new_runner(self, base: BaseEntry) -> Runner:
        runner = Runner(
            base.name,
            lambda: self._take_in(base, runner),
            idle_s=self._idle_s,
            limits=self._limits,
            on_unload=lambda: self._leave(base),
        )
        return runner

    def _take_in(self, base: BaseEntry, runner: Runner) -> Resident:
        """Loads a base when there is room for it; in its runner's thread."""
        self._enter(base, runner)
        try:
            if self._guard is not None:
                self._guard.check(base)
            # transformers builds models on a device that it sets for the whole process, so one after another.
            with self._loading:
                return self._load(base)
        except BaseException:
            self._leave(base)
            raise

    def _load(self, base: BaseEntry) -> Resident:
        logger.info("loading the base model %r", base.name)
        found = fingerprint(base.folder, fingerprint_cache(self._settings))
        return Resident(load_base(base.folder, dtype=base.precision), found, base.name, self._registry)

    def _enter(self, base: BaseEntry, runner: Runner) -> None:
        """Waits for a place; whoever is idle, or was asked for longest ago, is told to go."""
        with self._changed:
            while len(self._holding) >= MAX_LOADED:
                used = [entry for entry in self._runners if entry in self._holding]
                replaced = [entry for entry in self._holding if entry not in self._runners]
                by_turn = sorted([*replaced, *used], key=lambda entry: not self._holding[entry].is_idle)
                self._holding[by_turn[0]].unload()
                self._changed.wait(LOOK_S)
            self._holding[base] = runner

    def _leave(self, base: BaseEntry) -> None:
        with self._changed:
            self._holding.pop(base, None)
            self._changed.notify_all()


def _is_earlier(entry: BaseEntry, base: BaseEntry) -> bool:
    return entry != base and (entry.id, entry.precision) == (base.id, base.precision)
