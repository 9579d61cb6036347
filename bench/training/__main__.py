"""Training speed and memory beside PEFT's prefix tuning under transformers' Trainer.

`python -m bench.training [--quick]` prints a table and, as its last line, one JSON object: `speed_vs_peft_fp32`,
`speed_vs_peft_bf16`, `memory_vs_peft_1024` and `share_of_limit`, all of the SmolLM2-135M shape, the first, second and
last at e2e lengths. Our number format is the one that the engine chooses by itself on this machine. Memory is compared
in the same number format on both sides; where two formats were measured, the JSON holds the worse ratio.
"""

import argparse
import json
import os
import platform

import torch

from bench.training.contest import Entrant, Size, Speeds, peak_bytes, race
from bench.training.peft_trainer import check_installed
from bench.training.shapes import SHAPES
from bench.training.timing import CLOCKS
from worker.engine.base import DTYPES, choose_device, choose_dtype

HEADLINE = "135m"
PEERS = (Entrant("peft", "float32"), Entrant("peft", "bfloat16"))
STORED = "bfloat16"
"""How the originals of all three bases are stored, which decides with `choose_dtype` what we compute in."""

QUICK_LAYERS = 12
"""Of `--quick`, so that PEFT's side ends in time; the full form has all layers."""

FORMATS = ("bfloat16", "float32")


def main() -> None:
    """Measures what the options name."""
    options = _options()
    check_installed()
    device = choose_device()
    print(f"{hardware()}; torch {torch.__version__}, {options.threads} threads, {options.clock} time")
    names = {dtype: name for name, dtype in DTYPES.items()}
    figures: dict[str, float] = {}
    for name in options.bases:
        ours = Entrant("ours", names[choose_dtype("auto", device, STORED)])
        entrants = [ours, *PEERS] if options.quick else [*dict.fromkeys([ours, Entrant("ours", "float32")]), *PEERS]
        size = Size(options.pairs, options.steps, options.rows, options.threads, options.clock)
        for task, speeds in race(name, options.layers, options.tasks, entrants, size).items():
            print_speeds(name, options.layers, options.rows, task, speeds, ours)
            if name == HEADLINE and task == "e2e":
                figures["speed_vs_peft_fp32"] = speeds.ratio(ours, PEERS[0])
                figures["speed_vs_peft_bf16"] = speeds.ratio(ours, PEERS[1])
                figures["share_of_limit"] = speeds.share_of_limit(ours, task)
    if options.memory:
        figures["memory_vs_peft_1024"] = memory(options)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def print_speeds(name: str, layers: int, rows: int, task: str, speeds: Speeds, ours: Entrant) -> None:
    """One block of the table."""
    shape = SHAPES[name].with_layers(layers or None)
    print(f"\n{shape.title}, {shape.num_layers} layers, {task} lengths, {rows} rows a step")
    for entrant in speeds.runs:
        ratio = "" if entrant == ours else f"   ours ({ours.dtype}) is {speeds.ratio(ours, entrant):.2f} times as fast"
        share = 100 * speeds.share_of_limit(entrant, task)
        print(f"  {entrant.title:<10}{speeds.median(entrant):>9,.0f} tokens/s{share:>5.0f} % of the limit{ratio}")


def memory(options: argparse.Namespace) -> float:
    """Prints the peaks at rows of 1,024 tokens; returns the worst of our ratios."""
    print(f"\n{SHAPES[HEADLINE].title}, {options.memory_rows} rows of 1,024 tokens a step, peak above the loaded base")
    ratios = []
    for dtype in FORMATS[:1] if options.quick else FORMATS:
        ours, peer = (
            peak_bytes(
                HEADLINE, options.layers, Entrant(side, dtype), batch_size=options.memory_rows, threads=options.threads
            )
            for side in ("ours", "peft")
        )
        ratios.append(ours / peer)
        print(f"  {dtype:<9} ours {ours / 2**20:>7,.0f} MiB   PEFT {peer / 2**20:>7,.0f} MiB   ratio {ours / peer:.2f}")
    return max(ratios)


def hardware() -> str:
    """The processor or the GPU, in words."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {os.cpu_count()} cores, {capability}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the headline alone, in at most two minutes")
    parser.add_argument("--bases", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tasks", nargs="*", choices=("e2e", "gsm8k"), default=["e2e", "gsm8k"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step; 8 is the Trainer's default")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers for the random models; 0 is all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for a machine with other work")
    parser.add_argument("--memory-rows", type=int, default=4)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    options = parser.parse_args()
    if options.quick:
        options.bases, options.tasks = [HEADLINE], ["e2e"]
        options.pairs, options.steps, options.layers = 2, 3, options.layers or QUICK_LAYERS
    return options


if __name__ == "__main__":
    main()
