"""One base model in memory with the K/V of the prefixes that were used last; lives in its runner's thread."""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from storage.errors import NotFoundError, WrongBaseError
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.memory import available_memory
from worker.engine.prefix_file import read_prefix_file
from worker.engine.prompt_tuning import load_prefix
from worker.engine.tokens import draw_few_shot
from worker.inference.kept_prefixes import KeptPrefixes
from worker.inference.registry import PrefixEntry, Registry

MAX_SHOTS = 32
"""Prefixes whose examples for the few-shot context stay in memory."""

CACHE_SHARE = 0.3
"""Of the memory that is free when a base is loaded, for keys and values of the rows that are answered."""

PREFIX_SHARE = 0.1
"""The same for those of prefixes that were used last."""

ROW_SHARE = 0.25
"""Of the rows' memory, for one row: nobody's prompt keeps others out."""


class Resident:
    """A loaded base and its prefixes.

    Args:
        base: The loaded base.
        fingerprint: Of its weights; a prefix of another one is refused.
        name: Name of the base, for refusals.
        registry: Where the files of prefixes are found.
    """

    def __init__(self, base: LoadedBase, fingerprint: str, name: str, registry: Registry) -> None:
        self.base = base
        self.fingerprint = fingerprint
        self.name = name
        self._registry = registry
        free_bytes = _free_bytes(base.device)
        self.cache_bytes = int(CACHE_SHARE * free_bytes)
        self._kept = KeptPrefixes(int(PREFIX_SHARE * free_bytes))
        self._shots: OrderedDict[PrefixEntry, list[tuple[str, str]]] = OrderedDict()

    @property
    def max_row_columns(self) -> int:
        """Tokens of one row at most, prefix, prompt and answer together, by the memory that there is for rows."""
        geometry = self.base.geometry
        numbers = geometry.num_layers * 2 * geometry.num_kv_heads * geometry.head_dim
        return int(ROW_SHARE * self.cache_bytes / (numbers * self.base.dtype.itemsize))

    def bank_for(self, prefixes: Sequence[PrefixEntry | None]) -> tuple[PrefixBank | None, list[int]]:
        """The bank of one batch.

        Args:
            prefixes: Of each row, or None.

        Returns:
            The bank (None where no row has a prefix) and the slot of each row.

        Raises:
            WrongBaseError: A prefix was trained on other weights.
            InvalidPrefixFileError: The file of a prefix is damaged.
            NotFoundError: The file of a prefix is gone.
        """
        distinct = list(dict.fromkeys(prefix for prefix in prefixes if prefix is not None))
        bank = PrefixBank.stack([self.prefix(prefix) for prefix in distinct]) if distinct else None
        return bank, [NO_PREFIX if prefix is None else distinct.index(prefix) for prefix in prefixes]

    def shots(self, prefix: PrefixEntry) -> list[tuple[str, str]]:
        """The examples of a prefix's few-shot baseline, from the rows that it was trained on.

        Raises:
            NotFoundError: Its dataset has been deleted, or never was here.
        """
        if prefix not in self._shots:
            rows = self._registry.training_rows(prefix)
            if not rows:
                raise NotFoundError(
                    f"The rows that {prefix.name!r} was trained on are not here any more, so there are no examples to "
                    "show. Compare with the written instruction instead."
                )
            self._shots[prefix] = draw_few_shot(prefix.rendering, rows)
            while len(self._shots) > MAX_SHOTS:
                self._shots.popitem(last=False)
        return self._shots[prefix]

    def prefix(self, entry: PrefixEntry) -> SlotPrefix:
        """A prefix in the base's number format and on its device.

        Raises:
            WrongBaseError: It was trained on other weights.
            InvalidPrefixFileError: Its file is damaged.
            NotFoundError: Its file is gone.
        """
        if entry.base_fingerprint != self.fingerprint:
            raise WrongBaseError(
                f"The prefix {entry.name!r} was trained on a base model with the fingerprint "
                f"{entry.base_fingerprint[:16]}, and {self.name!r} has {self.fingerprint[:16]}. "
                "Use the base that it was trained on."
            )
        kept = self._kept.get(entry.artifact_hash)
        if kept is None:
            array = read_prefix_file(self._registry.prefix_path(entry), entry.method, self.base.geometry)
            kept = load_prefix(self.base, array)
            self._kept.put(entry.artifact_hash, kept)
        return kept


def _free_bytes(device: torch.device) -> int:
    return available_memory(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None)
