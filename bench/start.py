"""How long a person waits: from `python app.py` to the first page, and from a submitted job to its first step.

`python -m bench.start [--starts N]` starts the whole app N times in an empty home folder and prints medians; its last
line is one JSON object with `page_s`, `click_to_step_s` on the built-in base model, and `click_to_step_tiny_s` on a
tiny random one, which is the time that is the app's and not the model's.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from storage.bases.catalog import STARTER_NAME
from tests.studio import Studio
from tests.tiny import tiny_base_folder

BASES = {"click_to_step_s": STARTER_NAME, "click_to_step_tiny_s": "tiny"}
NUM_ROWS = 40
WARM_AFTER_S = 15.0
"""By then the trainer that waits for the next job has its imports done."""


def click_to_step(studio: Studio, table: Path, base_model: str) -> float:
    """Seconds from the submission of a job to the event of its first step."""
    with table.open("rb") as file:
        dataset = studio.api("POST", "/datasets", files={"file": (table.name, file)})
    body = {"dataset_id": dataset["id"], "base_model": base_model, "recipe": {"max_steps": 2, "num_virtual_tokens": 4}}
    started = time.monotonic()
    job_id = studio.api("POST", "/jobs", json=body)["id"]
    while studio.api("GET", f"/jobs/{job_id}")["step"] < 1:
        time.sleep(0.02)
    return time.monotonic() - started


def measure(num_starts: int, bases: Mapping[str, str] = BASES) -> dict[str, float]:
    """Medians over several starts, in seconds.

    Args:
        num_starts: How often the app is started.
        bases: Names of the base models to train, by the titles of their figures.
    """
    found: dict[str, list[float]] = {"page_s": [], **{title: [] for title in bases}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_base_folder(folder / "models" / "tiny")
        table = folder / "table.csv"
        table.write_text("text,label\n" + "".join(f"row {index},{index % 2}\n" for index in range(NUM_ROWS)))
        for number in range(num_starts):
            with Studio(folder / f"home-{number}", folder / "models") as studio:
                found["page_s"].append(studio.started_in_s)
                for title, base_model in bases.items():
                    time.sleep(WARM_AFTER_S)
                    found[title].append(click_to_step(studio, table, base_model))
    return {title: statistics.median(values) for title, values in found.items()}


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    figures = measure(parser.parse_args().starts)
    for title, value in figures.items():
        print(f"{title:>20} {value:8.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
