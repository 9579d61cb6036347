"""Which base models are in memory: one runner each, the one used longest ago makes room."""

import logging
from collections import OrderedDict

from storage.bases.catalog import fingerprint_cache
from storage.bases.fingerprint import fingerprint
from storage.settings import Settings
from worker.engine.base import load_base
from worker.inference.registry import BaseEntry, Registry
from worker.inference.resident import Resident
from worker.inference.runner import IDLE_S, Runner

logger = logging.getLogger(__name__)

MAX_LOADED = 2


class Residents:
    """The runners of the base models.

    Args:
        settings: Where fingerprints are remembered.
        registry: Where prefixes are found.
        idle_s: A base that nobody asked for so long is unloaded.
    """

    def __init__(self, settings: Settings, registry: Registry, *, idle_s: float = IDLE_S) -> None:
        self._settings = settings
        self._registry = registry
        self._idle_s = idle_s
        self._runners: OrderedDict[BaseEntry, Runner] = OrderedDict()

    def runner(self, base: BaseEntry) -> Runner:
        """The runner of a base; others that are idle make room before it loads. Called in the event loop only."""
        if base not in self._runners:
            self._runners[base] = Runner(base.name, lambda: self._load(base), idle_s=self._idle_s)
        self._runners.move_to_end(base)
        self._make_room(self._runners[base])
        return self._runners[base]

    def loaded(self) -> list[str]:
        """Names of the base models that are in memory."""
        return [runner.name for runner in self._runners.values() if runner.is_loaded]

    def _make_room(self, wanted: Runner) -> None:
        if wanted.is_loaded:
            return
        others = [runner for runner in self._runners.values() if runner is not wanted and runner.is_loaded]
        for runner in [runner for runner in others if runner.is_idle][: max(0, len(others) - MAX_LOADED + 1)]:
            runner.unload()

    def _load(self, base: BaseEntry) -> Resident:
        logger.info("loading the base model %r", base.name)
        found = fingerprint(base.folder, fingerprint_cache(self._settings))
        return Resident(load_base(base.folder, dtype=base.precision), found, base.name, self._registry)
