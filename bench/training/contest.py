"""Both sides in turn on the same rows, each in its own process; medians of paired ratios."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.training.shapes import SHAPES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Entrant:
    """A side and the number format of its base."""

    side: str
    dtype: str

    @property
    def title(self) -> str:
        """As the table names it."""
        return f"{'PEFT' if self.side == 'peft' else 'ours'} {'bf16' if self.dtype == 'bfloat16' else 'fp32'}"


class Contestant:
    """A process that holds one entrant's base and trains when told to.

    Args:
        entrant: Whose.
        shape: Name of the base.
        layers: Its layers; 0 for as many as the shape has.
        threads: Threads of torch.
        clock: Name of one of `timing.CLOCKS`.
    """

    def __init__(self, entrant: Entrant, shape: str, layers: int, threads: int, clock: str = "wall") -> None:
        arguments = [entrant.side, shape, entrant.dtype, str(layers), str(threads), clock]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.training.side", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )
        self.entrant = entrant
        self.facts = self._read()

    def train(self, task: str, *, seed: int, steps: int, batch_size: int) -> dict[str, float]:
        """Tokens, seconds and peak bytes of one training."""
        assert self.process.stdin is not None
        wish = {"task": task, "seed": seed, "steps": steps, "batch_size": batch_size}
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process, and waits for it."""
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.entrant.title} ended before it answered; its message stands above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class Speeds:
    """Tokens per second of every entrant, pair by pair.

    Attributes:
        facts: FLOPs per token, rate of products and device, by entrant.
        runs: Tokens per second by entrant, one number a pair.
    """

    facts: dict[Entrant, dict[str, Any]] = field(default_factory=dict)
    runs: dict[Entrant, list[float]] = field(default_factory=dict)

    def median(self, entrant: Entrant) -> float:
        """Tokens per second."""
        return statistics.median(self.runs[entrant])

    def ratio(self, ours: Entrant, peer: Entrant) -> float:
        """Median of our speed over the peer's, pair by pair."""
        return statistics.median(a / b for a, b in zip(self.runs[ours], self.runs[peer], strict=True))

    def share_of_limit(self, entrant: Entrant, task: str) -> float:
        """FLOPs per second of the model's weights over the measured rate."""
        facts = self.facts[entrant]
        return float(self.median(entrant) * facts["flops_per_token"][task] / facts["matrix_rate"])


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        pairs: Times that each side trains.
        steps: Updates of a training, of which the first is not timed.
        batch_size: Rows of an update.
        threads: Threads of torch.
        clock: Name of one of `timing.CLOCKS`.
    """

    pairs: int
    steps: int
    batch_size: int
    threads: int
    clock: str


def race(shape: str, layers: int, tasks: Sequence[str], entrants: Sequence[Entrant], size: Size) -> dict[str, Speeds]:
    """Speeds by task: the sides train in turn, each pair on rows of its own seed."""
    contestants = [Contestant(entrant, shape, layers, size.threads, size.clock) for entrant in entrants]
    steps = 1 + (size.steps - 1) * SHAPES[shape].steps_factor
    results = {}
    try:
        for task in tasks:
            speeds = Speeds({one.entrant: one.facts for one in contestants}, {one: [] for one in entrants})
            for pair in range(size.pairs):
                # Whoever begins has the warmer or the colder machine: they take turns at it.
                for one in contestants if pair % 2 == 0 else reversed(contestants):
                    answer = one.train(task, seed=pair, steps=steps, batch_size=size.batch_size)
                    speed = answer["tokens"] / answer["seconds"]
                    speeds.runs[one.entrant].append(speed)
                    print(f"{task}, pair {pair + 1}: {one.entrant.title} {speed:,.0f} tokens/s", file=sys.stderr)
            results[task] = speeds
    finally:
        for one in contestants:
            one.close()
    return results


def peak_bytes(shape: str, layers: int, entrant: Entrant, *, batch_size: int, threads: int) -> int:
    """Peak above the loaded base while training on rows of 1,024 tokens, in a process of its own."""
    contestant = Contestant(entrant, shape, layers, threads)
    try:
        return int(contestant.train("rows of 1,024", seed=0, steps=1, batch_size=batch_size)["peak_bytes"])
    finally:
        contestant.close()
