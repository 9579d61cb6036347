"""Serving beside PEFT: base and prefixes in one batch, many prefixes at once, and what the web role adds.

`python -m bench.serving [--quick]` prints a table and, as its last line, one JSON object: `pair_vs_base` (seconds),
`mixed_vs_same`, `speed_vs_peft_switching` and `speed_vs_peft_batched` (tokens per second), all medians of paired
ratios on the SmolLM2-135M shape, `ttft_busy_s` and `web_overhead_p95_s`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.serving import web
from bench.training.peft_trainer import check_installed

ROOT = Path(__file__).parents[2]
PARTS = ("pair", "mixed", "peers", "newcomer", "web")
FIGURES = (
    "pair_vs_base",
    "mixed_vs_same",
    "speed_vs_peft_switching",
    "speed_vs_peft_batched",
    "ttft_busy_s",
    "web_overhead_p95_s",
)
TABLE = (
    ("base alone, decoding", "base_tokens_per_s", "tokens/s"),
    ("base and one prefix, decoding", "pair_tokens_per_s", "tokens/s"),
    ("  its time against the base alone", "pair_vs_base", "times (aim: at most 1.25)"),
    ("32 rows, one prefix", "same_tokens_per_s", "tokens/s"),
    ("32 rows, 32 prefixes", "mixed_tokens_per_s", "tokens/s"),
    ("  against one prefix", "mixed_vs_same", "times (aim: 0.9)"),
    ("16 requests for 8 prefixes, ours", "ours_tokens_per_s", "tokens/s"),
    ("  PEFT, switching adapters", "peft_switching_tokens_per_s", "tokens/s"),
    ("  PEFT, a batch for each adapter", "peft_batched_tokens_per_s", "tokens/s"),
    ("  ours against switching", "speed_vs_peft_switching", "times (aim: 8)"),
    ("  ours against batches", "speed_vs_peft_batched", "times (aim: 2)"),
    ("  answers with the tokens of the first side", "same_answers", "of all"),
    ("first token, nobody else there", "ttft_idle_s", "s"),
    ("first token while 8 others stream", "ttft_busy_s", "s"),
    ("50 streams through the web role, p95 more", "web_overhead_p95_s", "s (aim: below 1.5)"),
    ("  to the first token", "web_first_overhead_p95_s", "s"),
    ("  that broke off", "web_errors", ""),
)


def main() -> None:
    """Measures, prints, and ends with the figures."""
    options = _options()
    check_installed()
    figures = engine(options) if set(options.parts) - {"web"} else {}
    figures |= web.measure(options.web_rounds) if "web" in options.parts else {}
    print(f"{os.cpu_count()} cores, {options.threads} threads of torch, {options.clock} time", end="")
    print(f", {options.shape} shape, {figures.get('dtype', 'no model')}, answers of {options.tokens} tokens")
    for title, name, unit in TABLE:
        if name in figures:
            print(f"  {title:<44}{figures[name]:>10.3f} {unit}")
    print(json.dumps({name: round(figures[name], 3) for name in FIGURES if name in figures}))


def engine(options: argparse.Namespace) -> dict[str, Any]:
    """The figures that need a model, from a process whose threads were set before torch was there."""
    names = ("shape", "layers", "dtype", "threads", "clock", "rounds", "tokens")
    settings = [str(getattr(options, name)) for name in names]
    parts = ",".join(part for part in options.parts if part != "web")
    command = [sys.executable, "-m", "bench.serving.engine", *settings, parts]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("The measurement ended before its time; its message stands above.")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter answers, in at most two minutes")
    parser.add_argument("--shape", choices=("starter", "135m", "qwen"), default="135m")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers; 0 is all")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of both sides")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer")
    parser.add_argument("--web-rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens, options.web_rounds = 2, 16, 1
    return options


if __name__ == "__main__":
    main()
