"""How long a newcomer waits for a first prefix, and what it is worth: built-in base, example tables, no setting.

`python -m bench.first_result [--quick] [--only KEY ...]` starts the whole app in an empty home folder and trains each
example by REST as the page does. It prints a line an example: seconds from the job's submission to the published
prefix, loss of base and prefix, and the comparison that the job itself made on held-out rows. Its last line is one
flat JSON object. `--quick` trains the first example only.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from app.examples.catalog import EXAMPLES, Example
from storage.bases.catalog import STARTER_NAME
from tests.studio import Studio

WARM_AFTER_S = 15.0
"""By then the trainer that waits for the next job has its imports done."""

TIMEOUT_S = 900.0


def train_example(studio: Studio, example: Example) -> tuple[float, dict[str, Any]]:
    """Seconds from submission to the published prefix, and the job's metrics."""
    files = [("file", (path.name, path.read_bytes())) for path in example.files]
    dataset = studio.api("POST", "/datasets", files=files, data={"mapping": json.dumps(example.mapping)})
    started = time.monotonic()
    job = studio.api("POST", "/jobs", json={"dataset_id": dataset["id"], "base_model": STARTER_NAME})
    ended = studio.wait_for_job(job["id"], timeout_s=TIMEOUT_S)
    seconds = time.monotonic() - started
    if ended["status"] != "succeeded":
        raise RuntimeError(f"{example.key}: the job {ended['status']}: {ended['error']}")
    return seconds, ended["metrics"]


def figures_of(seconds: float, metrics: dict[str, Any]) -> dict[str, float]:
    """What one training came to: seconds, losses, and what each side scores on the held-out rows."""
    comparison = metrics["evaluation"]
    figures = {"seconds": seconds, "loss_base": metrics["base_loss"], "loss_prefix": metrics["validation_loss"]}
    figures |= {
        f"{comparison['metric']}_{arm}": sides["metrics"][comparison["metric"]]["value"]
        for arm, sides in comparison["arms"].items()
    }
    return {name: round(value, 4) for name, value in figures.items()} | {"rows": comparison["num_rows"]}


def measure(examples: list[Example]) -> dict[str, float]:
    """Trains the examples one after the other in a fresh home folder; figures named `EXAMPLE_FIGURE`."""
    measured: dict[str, float] = {}
    # Tests give a studio one thread; here it shall have what a user's has.
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())}
    with tempfile.TemporaryDirectory() as name, Studio(Path(name) / "home", **threads) as studio:
        time.sleep(WARM_AFTER_S)
        for example in examples:
            figures = figures_of(*train_example(studio, example))
            print(f"{example.key}: " + ", ".join(f"{title} {value:g}" for title, value in figures.items()), flush=True)
            measured |= {f"{example.key}_{title}": value for title, value in figures.items()}
    return measured


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description="Trains the example tables on the built-in base as the page does.")
    parser.add_argument("--quick", action="store_true", help="the first example only")
    parser.add_argument("--only", nargs="+", choices=[each.key for each in EXAMPLES], help="these examples")
    options = parser.parse_args()
    chosen = [each for each in EXAMPLES if not options.only or each.key in options.only]
    print(json.dumps(measure(chosen[:1] if options.quick else chosen)))


if __name__ == "__main__":
    main()
