"""What a measured stretch of training gives back, and the clocks it may be measured with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""`processor` counts what the process computed: with one thread it gives fair ratios on a machine with other work."""


@dataclass(frozen=True)
class Timed:
    """Real (unpadded) tokens of prompts and targets, and the seconds that they took."""

    tokens: int
    seconds: float
