"""What the queue costs: claims per second with several claimers, recovery after a kill, what it adds to a training.

`python -m bench.queue [--quick]` prints a table and, as its last line, one JSON object. Claims are made by processes of
their own on a SQLite file as the app opens it (WAL, synchronous FULL: every claim waits for the disk). Recovery is from
`kill -9` of a trainer to the first step of the next attempt, with the real dispatcher and a trainer that speaks the
whole protocol but computes nothing (`tests.paper_trainer`); a real one adds its imports and its base model. What the
job system adds to a training of two minutes is measured on the starter (`bench.overhead`), in the quick form told from
the parts of a short one. From click to first step is
measured on the whole app with the built-in base model (`bench.start`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.start import measure as measure_start
from storage.bases.catalog import STARTER_NAME
from storage.database import Database, open_database
from storage.jobs import events_after
from storage.migrate import migrate
from storage.schema.base import new_id
from storage.schema.job import Job
from storage.settings import Settings, read_settings
from tests.stored import add_job
from worker.dispatcher import TICK_S, Dispatcher
from worker.downloader import Downloader
from worker.executor import LocalExecutor

CLAIMERS = (1, 4, 16)
TRAINER = (sys.executable, "-m", "tests.paper_trainer", "--steps", "1000000", "--step-s", "0.05")
PROJECT = Path(__file__).parents[1]
PATIENCE_S = 120.0
STEPS_BEFORE_KILL = 10


@contextmanager
def fresh_home() -> Iterator[tuple[Settings, Database]]:
    """A home folder on the disk, with an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        settings = read_settings({"PREFIX_STUDIO_HOME": folder})
        migrate(settings)
        database = open_database(settings)
        yield settings, database
        database.close()


def fill(database: Database, count: int) -> str:
    """Puts so many jobs into the queue; the id of the first."""
    with database.write() as session:
        job = add_job(session)
        columns = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
        session.add_all(Job(**{**columns, "id": new_id(), "position": 2.0 + place}) for place in range(count - 1))
        return job.id


def claim_all(count: int, num_claimers: int) -> tuple[float, list[float]]:
    """Lets processes claim until the queue is empty.

    Returns:
        Seconds from the start to the last claim, and those of each claim, in order of length.
    """
    with fresh_home() as (settings, database):
        fill(database, count)
        command = [sys.executable, "-m", "bench.claimer", settings.database_url, str(num_claimers)]
        printed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=PATIENCE_S).stdout
    told = json.loads(printed)
    elapsed_s, claims_s = told["elapsed_s"], told["claims_s"]
    assert len(claims_s) == count, f"{len(claims_s)} claims of {count} jobs"
    return elapsed_s, claims_s


def claim_figures(num_claimers: int, count: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds: claims per second of all claimers together, and what 99 of 100 claims take at most."""
    rates, slowest = [], []
    for _ in range(rounds):
        elapsed_s, claims_s = claim_all(count, num_claimers)
        rates.append(count / elapsed_s)
        slowest.append(percentile(claims_s, 0.99) * 1000)
    return {
        f"claims_per_s_{num_claimers}": statistics.median(rates),
        f"claim_p99_ms_{num_claimers}": statistics.median(slowest),
    }


def percentile(ordered: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]


def recover(database: Database, dispatcher: Dispatcher, job_id: str) -> float:
    """Kills the trainer of a job's first attempt in the middle of its work; seconds to the first step of the second."""

    def steps_of(attempt: int) -> int:
        with database.read() as session:
            return sum(event.attempt == attempt and event.kind == "step" for event in events_after(session, job_id))

    tick_until(dispatcher, lambda: steps_of(1) > STEPS_BEFORE_KILL)
    # No trainer was warm for the first attempt, so its process was started with the assignment.
    next(child for child in psutil.Process().children() if f"{job_id}:1" in child.cmdline()).kill()
    killed = time.perf_counter()
    tick_until(dispatcher, lambda: steps_of(2) > 0)
    return time.perf_counter() - killed


def tick_until(dispatcher: Dispatcher, holds: Callable[[], bool]) -> None:
    """Runs the dispatcher's rounds at its own pace until something holds, looking more often."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        dispatcher.tick()
        for _ in range(10):
            if holds():
                return
            time.sleep(TICK_S / 10)
    raise TimeoutError(f"the trainer did not come so far in {PATIENCE_S:.0f} s")


def recovery_figures(rounds: int) -> dict[str, float]:
    """The median of several kills, each of a job of its own (a job whose trainer dies three times is set aside)."""
    seconds = []
    for _ in range(rounds):
        with fresh_home() as (settings, database):
            job_id = fill(database, 1)
            (settings.home / "run").mkdir(exist_ok=True)
            executor = LocalExecutor(
                settings.home / "run" / "trainer.log", command=(*TRAINER, "--home", str(settings.home))
            )
            dispatcher = Dispatcher(settings, database, executor, Downloader(database))
            try:
                seconds.append(recover(database, dispatcher, job_id))
            finally:
                executor.stop(timeout_s=5.0)
    return {"recovery_s": statistics.median(seconds)}


def overhead_figures(*options: str) -> dict[str, float]:
    """What the job system adds to a training of two minutes, by `bench.overhead` in a process of its own."""
    command = [sys.executable, "-m", "bench.overhead", "--seconds", "120", *options]
    *told, figures = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    print(b"\n".join(told).decode(), flush=True)
    return dict(json.loads(figures))


def main() -> None:
    """Prints the figures as they come, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds: at most two minutes")
    parser.add_argument("--no-start", action="store_true", help="leave out the time from click to first step")
    arguments = parser.parse_args()
    count, rounds = (1000, 1) if arguments.quick else (3000, 3)
    figures: dict[str, float] = {}

    def tell(more: dict[str, float]) -> None:
        figures.update(more)
        for title, value in more.items():
            print(f"{title:>20} {value:10.2f}", flush=True)

    for num_claimers in CLAIMERS:
        tell(claim_figures(num_claimers, count, rounds))
    tell(recovery_figures(3 if arguments.quick else 7))
    tell(overhead_figures("--short", "5") if arguments.quick else overhead_figures("--pairs", "3"))
    if not arguments.no_start:
        tell(measure_start(1 if arguments.quick else 3, {"click_to_step_s": STARTER_NAME}))
    print(f"load averages: {os.getloadavg()}, cores: {os.cpu_count()}")
    print(json.dumps({title: round(value, 3) for title, value in figures.items()}))


if __name__ == "__main__":
    main()
