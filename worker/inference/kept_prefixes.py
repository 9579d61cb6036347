"""Keys and values of the prefixes that were used last, on the device, up to a number of bytes."""

from collections import OrderedDict

from worker.engine.bank import SlotPrefix

MAX_KEPT = 256
"""Prefixes at most, however small they are."""


class KeptPrefixes:
    """Prefixes by the hash of their numbers; the one used longest ago goes first.

    Args:
        max_bytes: What they may take together; the last one stays, whatever it takes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, SlotPrefix] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> SlotPrefix | None:
        """A prefix that is kept, or None; it counts as used."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: str, prefix: SlotPrefix) -> None:
        """Keeps a prefix, and lets others go where there is no room."""
        self._kept[key] = prefix
        self.num_bytes += prefix.nbytes
        while len(self._kept) > 1 and (len(self._kept) > MAX_KEPT or self.num_bytes > self._max_bytes):
            _, gone = self._kept.popitem(last=False)
            self.num_bytes -= gone.nbytes
