"""How long a person waits: from `python app.py` to the first page, and from a submitted job to its first step.

`python -m bench.start [--starts N]` starts the whole app N times in an empty home folder and prints medians; its last
line is one JSON object with `page_s` and `click_to_step_s`. The base is a tiny random model, so that the figures are
those of the app and not of a model.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.studio import Studio
from tests.tiny import tiny_base_folder

NUM_ROWS = 40
WARM_AFTER_S = 15.0
"""By then the trainer that waits for the next job has its imports done."""


def click_to_step(studio: Studio, table: Path) -> float:
    """Seconds from the submission of a job to the event of its first step."""
    with table.open("rb") as file:
        dataset = studio.api("POST", "/datasets", files={"file": (table.name, file)})
    body = {"dataset_id": dataset["id"], "base_model": "tiny", "recipe": {"max_steps": 2, "num_virtual_tokens": 4}}
    started = time.monotonic()
    job_id = studio.api("POST", "/jobs", json=body)["id"]
    while studio.api("GET", f"/jobs/{job_id}")["step"] < 1:
        time.sleep(0.02)
    return time.monotonic() - started


def measure(num_starts: int) -> dict[str, float]:
    """Medians over several starts, in seconds."""
    pages, steps = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_base_folder(folder / "models" / "tiny")
        table = folder / "table.csv"
        table.write_text("text,label\n" + "".join(f"row {index},{index % 2}\n" for index in range(NUM_ROWS)))
        for number in range(num_starts):
            with Studio(folder / f"home-{number}", folder / "models") as studio:
                pages.append(studio.started_in_s)
                time.sleep(WARM_AFTER_S)
                steps.append(click_to_step(studio, table))
    return {"page_s": statistics.median(pages), "click_to_step_s": statistics.median(steps)}


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    figures = measure(parser.parse_args().starts)
    for title, value in figures.items():
        print(f"{title:>16} {value:8.2f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
