"""What the job system costs a training: the same one as a job and bare, one after the other in one warm process.

`python -m bench.overhead [--seconds S] [--pairs N]` prints medians; its last line is one JSON object.

Bare is the engine's loop alone: rows in memory, no database, no file. The job is what a trainer does from its claim to
its published prefix: events, heartbeat, wishes, checkpoints, the prefixes of evaluations, sample answers in between,
publication. Left out of both is what stands beside the loop and is computing that no job system adds: loading the base,
encoding the rows, the base's own figures, the proof that it is unchanged, the comparison of the finished prefix. Pairs
run in alternating order. `loop_percent` is the same from within the job alone: all its time outside the engine against
that inside it, which other work on the machine disturbs less.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.jobs import request_stop
from storage.migrate import migrate
from storage.schema.job import JobStatus
from storage.settings import read_settings
from tests.trainer_bench import Role
from worker.engine.events import Event, Finished
from worker.engine.train import train, train_together
from worker.training import attempt as attempt_module
from worker.training import together as together_module
from worker.training.attempt import Attempt
from worker.training.inputs import encode, load_task_base, read_task

STARTER = Path(__file__).parents[1] / "worker" / "starter"
PILOT_STEPS = 10
NUM_LOOKS = 10
RECIPE = {"num_virtual_tokens": 16, "batch_size": 16, "learning_rate": 0.001}
BESIDE = ("prepare", "_compare", "_proof")
"""Parts of an attempt whose time does not count."""


@dataclass(frozen=True)
class Timed:
    """Seconds of one training, as a job or bare, and those of them that were spent in the engine."""

    seconds: float
    engine_s: float


class Bench:
    """A home folder with a dataset and the starter, in a process that is warm."""

    def __init__(self, folder: Path) -> None:
        settings = read_settings({"PREFIX_STUDIO_HOME": str(folder / "home")})
        settings.home.mkdir()
        migrate(settings)
        self.database = open_database(settings)
        base = folder / "models" / "starter"
        base.parent.mkdir()
        base.symlink_to(STARTER)
        self.role = Role(settings, self.database, ArtifactStore(settings), base)

    def bare(self, steps: int) -> Timed:
        """The training alone."""
        job_id = self._submit(steps)
        task = read_task(self.role.workplace.settings, self.database, self.role.store, job_id)
        with self.database.write() as session:
            request_stop(session, job_id, keep=False)
        base = load_task_base(task)
        inputs = encode(task, base)
        began = time.perf_counter()
        events = train(base, inputs.train, inputs.validation, inputs.recipe, init_ids=inputs.init_ids)
        assert any(isinstance(event, Finished) for event in events)
        seconds = time.perf_counter() - began
        return Timed(seconds, seconds)

    def job(self, steps: int) -> Timed:
        """The same training as a job."""
        job_id = self._submit(steps)
        with ExitStack() as patches:
            beside = [patches.enter_context(_timed_method(Attempt, name)) for name in BESIDE]
            patches.enter_context(mock.patch.object(attempt_module, "compare", return_value={}))
            in_engine = patches.enter_context(_timed_engine())
            began = time.perf_counter()
            done = self.role.run()
            seconds = time.perf_counter() - began
        assert (done.id, done.status) == (job_id, JobStatus.SUCCEEDED), done.error
        return Timed(seconds - sum(map(sum, beside)), sum(in_engine))

    def _submit(self, steps: int) -> str:
        return self.role.submit(**RECIPE, max_steps=steps, eval_every=max(1, steps // NUM_LOOKS))


@contextmanager
def _timed_method(owner: type, name: str) -> Iterator[list[float]]:
    """Notes the seconds of each call."""
    times: list[float] = []
    original = getattr(owner, name)

    def call(*told: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(*told, **more)
        finally:
            times.append(time.perf_counter() - began)

    with mock.patch.object(owner, name, call):
        yield times


@contextmanager
def _timed_engine() -> Iterator[list[float]]:
    """Notes the seconds that the engine takes from one event to the next."""
    times: list[float] = []

    def train_timed(*told: Any, **more: Any) -> Iterator[tuple[int, Event]]:
        events = iter(train_together(*told, **more))
        while True:
            began = time.perf_counter()
            event = next(events, None)
            times.append(time.perf_counter() - began)
            if event is None:
                return
            yield event

    with mock.patch.object(together_module, "train_together", train_timed):
        yield times


def measure(seconds: float, pairs: int) -> dict[str, float]:
    """Medians over the pairs.

    Args:
        seconds: How long the bare training should take.
        pairs: How many times both run.

    Returns:
        `overhead_percent` and `loop_percent`.
    """
    overheads, loops = [], []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.bare(PILOT_STEPS)
        steps = max(PILOT_STEPS, round(PILOT_STEPS * seconds / bench.bare(PILOT_STEPS).seconds))
        for number in range(pairs):
            order = (bench.bare, bench.job) if number % 2 == 0 else (bench.job, bench.bare)
            timed = {run.__name__: run(steps) for run in order}
            bare, job = timed["bare"], timed["job"]
            overheads.append(100 * (job.seconds / bare.seconds - 1))
            loops.append(100 * (job.seconds / job.engine_s - 1))
            print(f"{steps} steps: bare {bare.seconds:.1f} s, as a job {job.seconds:.1f} s", flush=True)
        bench.database.close()
    return {"overhead_percent": statistics.median(overheads), "loop_percent": statistics.median(loops)}


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    figures = measure(arguments.seconds, arguments.pairs)
    print(json.dumps({title: round(value, 2) for title, value in figures.items()}))


if __name__ == "__main__":
    main()
