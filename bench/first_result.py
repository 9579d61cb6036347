"""How long a newcomer waits for a first prefix, and what it is worth: built-in base, example tables, no setting.

`python -m bench.first_result [--quick] [--only KEY ...]` starts the whole app in an empty home folder and trains each
example by REST as the page does. It prints a line an example: seconds from the job's submission to the published
prefix, loss of base and prefix, and the comparison that the job itself made on held-out rows. Its last line is one
flat JSON object. `--quick` trains the first example only; `--tasks FOLDER` trains real data sets instead, of which
FOLDER holds a folder each (e2e_nlg, sms_spam, rt_polarity, banking77).
"""

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from app.examples.catalog import EXAMPLES, Example
from bench.quality.tasks import TASKS
from storage.bases.catalog import STARTER_NAME
from tests.studio import Studio

WARM_AFTER_S = 15.0
"""By then the trainer that waits for the next job has its imports done."""

TIMEOUT_S = 1800.0

NAMED = ("event", "place", "day", "time", "price")
"""Columns of the event notices that an answer should name."""

REAL_TASKS = {"e2e_nlg": "ref", "sms_spam": "label", "rt_polarity": "sentiment", "banking77": "category"}
"""Column of the answer in the files of each; what is asked is what the quality benchmark asks."""


def real_tasks(folder: Path) -> list[Example]:
    """The real data sets, as whole as they are: their own training, validation and test parts."""
    found = []
    for name, target in REAL_TASKS.items():
        spec = TASKS[name]
        mapping = {"template": spec.template, "target": target, "instruction": spec.instruction, "rendering": "plain"}
        files = tuple(sorted((folder / name).glob("*.?sv")))
        if not files:
            raise SystemExit(
                f"There are no tables in {folder / name}; expected train, validation and test as csv or tsv."
            )
        found.append(Example(name, name, spec.instruction, files, mapping))
    return found


def train_example(studio: Studio, example: Example) -> tuple[float, dict[str, Any]]:
    """Seconds from submission to the published prefix, and the job as it ended."""
    files = [("file", (path.name, path.read_bytes())) for path in example.files]
    dataset = studio.api("POST", "/datasets", files=files, data={"mapping": json.dumps(example.mapping)})
    started = time.monotonic()
    job = studio.api("POST", "/jobs", json={"dataset_id": dataset["id"], "base_model": STARTER_NAME})
    ended = studio.wait_for_job(job["id"], timeout_s=TIMEOUT_S)
    seconds = time.monotonic() - started
    if ended["status"] != "succeeded":
        raise RuntimeError(f"{example.key}: the job {ended['status']}: {ended['error']}")
    return seconds, ended


def share_naming_all(studio: Studio, example: Example, model: str) -> float:
    """Share of the held-out rows whose answer holds every cell of the row, letter for letter."""
    with example.files[-1].open(encoding="utf-8", newline="") as file:
        rows = [{name: cell for name, cell in row.items() if name in NAMED} for row in csv.DictReader(file)]
    named = 0
    for row in rows:
        body = {"model": model, "prompt": example.mapping["template"].format(**row), "max_tokens": 80, "temperature": 0}
        answer = httpx.post(f"{studio.url}/v1/completions", json=body, timeout=60.0, trust_env=False).json()
        named += all(cell in answer["choices"][0]["text"] for cell in row.values())
    return named / len(rows)


def figures_of(seconds: float, job: dict[str, Any]) -> dict[str, float]:
    """What one training came to: seconds, losses, and what each side scores on the held-out rows."""
    metrics = job["metrics"]
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
    with tempfile.TemporaryDirectory() as name, Studio(Path(name) / "home", None, **threads) as studio:
        time.sleep(WARM_AFTER_S)
        for example in examples:
            seconds, job = train_example(studio, example)
            figures = figures_of(seconds, job)
            if example.key == "events":
                prefix = studio.api("GET", f"/prefixes/{job['prefix_id']}")
                figures["share_naming_all"] = round(share_naming_all(studio, example, prefix["name"]), 4)
            print(f"{example.key}: " + ", ".join(f"{title} {value:g}" for title, value in figures.items()), flush=True)
            measured |= {f"{example.key}_{title}": value for title, value in figures.items()}
    return measured


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description="Trains the example tables on the built-in base as the page does.")
    parser.add_argument("--quick", action="store_true", help="the first example only")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="these examples")
    parser.add_argument("--tasks", type=Path, metavar="FOLDER", help="real data sets instead of the example tables")
    options = parser.parse_args()
    offered = real_tasks(options.tasks) if options.tasks else EXAMPLES
    chosen = [each for each in offered if not options.only or each.key in options.only]
    print(json.dumps(measure(chosen[:1] if options.quick else chosen)))


if __name__ == "__main__":
    main()
