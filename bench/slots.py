"""Several jobs in one pass over one base, against the same jobs one after another.

`python -m bench.slots [--quick]` trains k prefixes on the built-in base, k = 1, 2, 4, 8: each job has rows, a learning
rate and a seed of its own, and otherwise the settings of the automatic recipe. Both ways alternate, and every figure is
the median over pairs of runs. It prints a table and, as its last line, one JSON object with `speedup_1` to `speedup_8`.
Looks at validation rows are left out on both sides.
"""

import argparse
import csv
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from app.examples.catalog import EXAMPLES
from storage.bases.catalog import STARTER_FOLDER
from worker.engine.automatic import resolve
from worker.engine.base import LoadedBase, load_base
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_example
from worker.engine.train import train_together
from worker.engine.training import Training
from worker.executor import SPIN_COUNT

JOB_COUNTS = (1, 2, 4, 8)
EXAMPLE = "events"
SHARE_OF_ROWS = 0.6
"""Of the example's rows, that each job draws for itself."""

RATES = (0.02, 0.05, 0.03, 0.04)


def example_rows(base: LoadedBase) -> list[Example]:
    """The rows of an example of the page, which turns facts into a sentence as e2e_nlg does, as token ids."""
    example = next(each for each in EXAMPLES if each.key == EXAMPLE)
    rendering = Rendering("plain", example.mapping["template"], example.mapping["target"])
    with example.files[0].open(encoding="utf-8", newline="") as file:
        return [encode_example(base.tokenizer, rendering, row) for row in csv.DictReader(file)]


def job(base: LoadedBase, rows: Sequence[Example], number: int, steps: int) -> Training:
    """One job: its own draw of the rows, its own rate and seed."""
    drawn = random.Random(number).sample(rows, int(SHARE_OF_ROWS * len(rows)))
    recipe = resolve(
        Recipe(learning_rate=RATES[number % len(RATES)], max_steps=steps, eval_every=steps, seed=number),
        num_train=len(drawn),
        instruction_tokens=0,
        geometry=base.geometry,
        num_base_parameters=base.num_parameters,
        on_gpu=base.device.type == "cuda",
    )
    return Training(drawn, (), recipe, init_ids=drawn[0].prompt_ids + drawn[0].target_ids)


def seconds_together(base: LoadedBase, jobs: Sequence[Training]) -> float:
    """Time of one pass for all jobs."""
    return _timed(base, lambda: [None for _ in train_together(base, jobs)])


def seconds_apart(base: LoadedBase, jobs: Sequence[Training]) -> float:
    """Time of a run for each job."""
    return _timed(base, lambda: [None for each in jobs for _ in train_together(base, [each])])


def _timed(base: LoadedBase, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(base: LoadedBase, counts: Sequence[int], *, pairs: int, steps: int) -> dict[int, list[tuple[float, float]]]:
    """Seconds apart and together, for each number of jobs and pair; the two sides take turns in going first."""
    rows = example_rows(base)
    jobs = [job(base, rows, number, steps) for number in range(max(counts))]
    seconds_together(base, jobs[:2])
    measured: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for pair in range(pairs):
        for count in counts:
            sides = [seconds_apart, seconds_together]
            taken = {side: side(base, jobs[:count]) for side in (sides if pair % 2 == 0 else sides[::-1])}
            measured[count].append((taken[seconds_apart], taken[seconds_together]))
    return measured


def speedup(pairs: Sequence[tuple[float, float]]) -> float:
    """Median of how many times faster the pass was than the runs of the same pair."""
    return statistics.median(apart / together for apart, together in pairs)


def hardware(base: LoadedBase) -> str:
    """Where it was measured, in words."""
    if base.device.type == "cuda":
        return str(torch.cuda.get_device_name())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} ({capability}), {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def start_as_trainers_do() -> None:
    """Starts the program anew with the setting that trainers get; OpenMP reads it once, when torch is imported."""
    if "GOMP_SPINCOUNT" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT})


def main() -> None:
    """Prints the table, and the JSON last."""
    start_as_trainers_do()
    parser = argparse.ArgumentParser(description="Measures several jobs in one pass against one after another.")
    parser.add_argument("--quick", action="store_true", help="fewer steps, in two minutes")
    parser.add_argument("--pairs", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--counts", type=int, nargs="+", default=list(JOB_COUNTS))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    pairs, steps = options.pairs or (3 if options.quick else 5), options.steps or (4 if options.quick else 12)
    base = load_base(STARTER_FOLDER, device=options.device)
    print(f"{hardware(base)}, torch {torch.__version__}, {base.dtype}; {pairs} pairs of {steps} steps a job")
    print(f"{'jobs':>5}{'apart, s a step':>18}{'together, s a step':>20}{'times as fast':>15}{'range':>14}")
    figures: dict[str, float] = {}
    for count, taken in measure(base, options.counts, pairs=pairs, steps=steps).items():
        apart, together = (statistics.median(pair[side] for pair in taken) / steps for side in (0, 1))
        ratios = sorted(pair[0] / pair[1] for pair in taken)
        figures[f"speedup_{count}"] = round(speedup(taken), 3)
        print(f"{count:>5}{apart:>18.3f}{together:>20.3f}{speedup(taken):>15.2f}{ratios[0]:>8.2f}-{ratios[-1]:.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
