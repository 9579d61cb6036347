"""One base model in memory with the K/V of the prefixes that were used last; lives in its runner's thread."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from storage.errors import NotFoundError, WrongBaseError
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.prefix_file import read_prefix_file
from worker.engine.prompt_tuning import load_bank
from worker.engine.tokens import draw_few_shot
from worker.inference.registry import PrefixEntry, Registry

MAX_KEPT = 32
"""Prefixes whose K/V stay in memory."""

Key = TypeVar("Key")
Value = TypeVar("Value")


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
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._shots: OrderedDict[PrefixEntry, list[tuple[str, str]]] = OrderedDict()

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
        bank = PrefixBank.stack([self._kv(prefix) for prefix in distinct]) if distinct else None
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
            _keep(self._shots, prefix, draw_few_shot(prefix.rendering, rows))
        return self._shots[prefix]

    def _kv(self, prefix: PrefixEntry) -> Tensor:
        """`[L, 2, H_kv, P, D]` in the base's number format."""
        if prefix.base_fingerprint != self.fingerprint:
            raise WrongBaseError(
                f"The prefix {prefix.name!r} was trained on a base model with the fingerprint "
                f"{prefix.base_fingerprint[:16]}, and {self.name!r} has {self.fingerprint[:16]}. "
                "Use the base that it was trained on."
            )
        if prefix.artifact_hash not in self._kept:
            array = read_prefix_file(self._registry.prefix_path(prefix), prefix.method, self.base.geometry)
            _keep(self._kept, prefix.artifact_hash, load_bank(self.base, [array]).kv[0])
        self._kept.move_to_end(prefix.artifact_hash)
        return self._kept[prefix.artifact_hash]


def _keep(kept: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    kept[key] = value
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)
