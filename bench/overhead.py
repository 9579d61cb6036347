"""What the job system costs a training: the same one as a job and bare, one after the other in one warm process.

`python -m bench.overhead [--seconds S] [--pairs N | --short S]` prints medians; its last line is one JSON object.

Bare is the engine's loop alone: rows in memory, no database, no file. The job is what a trainer does from its claim to
its published prefix. Of its time there are three kinds:

- The job system: events, heartbeat, wishes, checkpoints, the prefix of every evaluation, publication, the lease.
  `overhead_percent` is all of it over the bare training, `system_percent` the same told from within the job: the time
  outside the engine over that inside it, which other work on the machine disturbs less.
- Answers that a bare training does not give, of the same job: sample answers at each evaluation and at its end.
  `answers_percent` is their time, in percent of the bare training; it is in neither of the figures above.
- What stands beside the loop and no job system adds: loading the base, encoding the rows, the base's own figures, the
  proof that it is unchanged, and the verdict. Neither side of the comparison has it.

Pairs run in alternating order. `estimate` tells the same from one short job with as many evaluations and checkpoints as
a long one has: what each of those takes stays as it is, and what every step takes grows with the steps.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
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
from worker.executor import trainer_environment
from worker.training import attempt as attempt_module
from worker.training import together as together_module
from worker.training.attempt import Attempt
from worker.training.inputs import encode, load_task_base, read_task
from worker.training.keeper import Keeper
from worker.training.recorder import Recorder
from worker.training.samples import Samples
from worker.training.snapshots import Snapshots

STARTER = Path(__file__).parents[1] / "worker" / "starter"
PILOT_STEPS = 10
NUM_LOOKS = 10
RECIPE = {"num_virtual_tokens": 16, "batch_size": 16, "learning_rate": 0.001}
BESIDE = "beside the loop"
ANSWERS = "sample answers"
ENGINE = "the engine"
PARTS: dict[str, tuple[tuple[object, str], ...]] = {
    BESIDE: ((Attempt, "prepare"), (Attempt, "_compare"), (Attempt, "_proof")),
    ANSWERS: ((Samples, "answer"), (Samples, "answer_in_time")),
    "hearing of steps": ((Attempt, "hear"),),
    "writing of steps": ((Recorder, "_flush_when_due"),),
    "stages": ((Recorder, "stage"), (Attempt, "begin")),
    "prefixes of evaluations": ((Snapshots, "hear"),),
    "checkpoints": ((Keeper, "write"),),
    "publication": ((attempt_module, "publish"),),
}
"""Calls of a job by what they are for; time inside another of them counts there."""
OF_STEPS = ("hearing of steps", "writing of steps")
"""Parts that grow with the length of a training; of the others there are as many in a short one."""


@dataclass
class Clock:
    """Seconds by part, each second counted once: for the innermost part that is under way."""

    seconds: Counter[str] = field(default_factory=Counter)
    _parts: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Counts the block for a part."""
        self._count()
        self._parts.append(part)
        try:
            yield
        finally:
            self._count()
            self._parts.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class Timed:
    """Seconds of one training by part; of a bare one all are the engine's."""

    parts: Counter[str]

    @property
    def engine_s(self) -> float:
        """Inside the engine's loop."""
        return self.parts[ENGINE]

    @property
    def job_s(self) -> float:
        """All but what bare training lacks for other reasons than the job system."""
        return sum(self.parts.values()) - self.parts[BESIDE] - self.parts[ANSWERS]


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
        clock = Clock()
        with clock.timing(ENGINE):
            events = train(base, inputs.train, inputs.validation, inputs.recipe, init_ids=inputs.init_ids)
            assert any(isinstance(event, Finished) for event in events)
        return Timed(clock.seconds)

    def job(self, steps: int) -> Timed:
        """The same training as a job."""
        job_id, clock = self._submit(steps), Clock()
        with ExitStack() as patches:
            patches.enter_context(mock.patch.object(attempt_module, "compare", return_value={}))
            for part, calls in PARTS.items():
                for owner, name in calls:
                    patches.enter_context(_timed(clock, part, owner, name))
            patches.enter_context(mock.patch.object(together_module, "train_together", _timed_engine(clock)))
            with clock.timing("claim and end"):
                done = self.role.run()
        assert (done.id, done.status) == (job_id, JobStatus.SUCCEEDED), done.error
        return Timed(clock.seconds)

    def write_checkpoints_every(self, seconds: float) -> None:
        """Has jobs write them so often from now on."""
        settings = replace(self.role.workplace.settings, checkpoint_every_s=seconds)
        self.role.workplace = replace(self.role.workplace, settings=settings)

    def _submit(self, steps: int) -> str:
        return self.role.submit(**RECIPE, max_steps=steps, eval_every=max(1, steps // NUM_LOOKS))


def _timed(clock: Clock, part: str, owner: Any, name: str) -> Any:
    """Counts each call for a part."""
    original = getattr(owner, name)

    def call(*told: Any, **more: Any) -> Any:
        with clock.timing(part):
            return original(*told, **more)

    return mock.patch.object(owner, name, call)


def _timed_engine(clock: Clock) -> Any:
    """Counts what the engine takes from one event to the next."""

    def train_timed(*told: Any, **more: Any) -> Iterator[tuple[int, Event]]:
        events = iter(train_together(*told, **more))
        while True:
            with clock.timing(ENGINE):
                event = next(events, None)
            if event is None:
                return
            yield event

    return train_timed


def measure(seconds: float, pairs: int) -> dict[str, float]:
    """Medians over the pairs.

    Args:
        seconds: How long the bare training should take.
        pairs: How many times both run.

    Returns:
        `overhead_percent`, `system_percent` and `answers_percent`.
    """
    found: dict[str, list[float]] = {"overhead_percent": [], "system_percent": [], "answers_percent": []}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.bare(PILOT_STEPS)
        steps = max(PILOT_STEPS, round(PILOT_STEPS * seconds / bench.bare(PILOT_STEPS).engine_s))
        for number in range(pairs):
            order = (bench.bare, bench.job) if number % 2 == 0 else (bench.job, bench.bare)
            timed = {run.__name__: run(steps) for run in order}
            bare, job = timed["bare"], timed["job"]
            found["overhead_percent"].append(100 * (job.job_s / bare.engine_s - 1))
            found["system_percent"].append(100 * (job.job_s / job.engine_s - 1))
            found["answers_percent"].append(100 * job.parts[ANSWERS] / bare.engine_s)
            print(f"{steps} steps: bare {bare.engine_s:.1f} s, as a job {job.job_s:.1f} s, of it", flush=True)
            print("".join(f"{part:>26} {spent:9.3f} s\n" for part, spent in job.parts.most_common()), flush=True)
        bench.database.close()
    return {title: statistics.median(values) for title, values in found.items()}


def estimate(seconds: float, *, of_seconds: float) -> dict[str, float]:
    """What the job system would add to a long training, told from a short one.

    Args:
        seconds: Of the long training.
        of_seconds: Of the short one that is run.

    Returns:
        As `measure`; what the job system takes from the engine beside it (its heartbeat) is not in it.
    """
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.bare(PILOT_STEPS)
        steps = max(PILOT_STEPS, round(PILOT_STEPS * of_seconds / bench.bare(PILOT_STEPS).engine_s))
        bench.write_checkpoints_every(of_seconds * bench.role.workplace.settings.checkpoint_every_s / seconds)
        job = bench.job(steps)
        bench.database.close()
    print(f"{steps} steps in {job.engine_s:.1f} s, told for {seconds:.0f} s", flush=True)
    print("".join(f"{part:>26} {spent:9.3f} s\n" for part, spent in job.parts.most_common()), flush=True)
    return told_for(job, seconds)


def told_for(job: Timed, seconds: float) -> dict[str, float]:
    """The figures of a long training by the parts of a short one."""
    of_steps = sum(job.parts[part] for part in OF_STEPS)
    others = job.job_s - job.engine_s - of_steps
    percent = 100 * (of_steps / job.engine_s + others / seconds)
    answers = 100 * job.parts[ANSWERS] / seconds
    return {"overhead_percent": percent, "system_percent": percent, "answers_percent": answers}


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--short", type=float, metavar="S", help="tell it from one job of so many seconds")
    arguments = parser.parse_args()
    environment = trainer_environment(num_trainers=1)
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # OpenMP reads its settings as a process begins; both sides are to compute as a trainer does.
        command = [sys.executable, "-m", "bench.overhead", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **environment})
    if arguments.short is None:
        figures = measure(arguments.seconds, arguments.pairs)
    else:
        figures = estimate(arguments.seconds, of_seconds=arguments.short)
    print(json.dumps({title: round(value, 2) for title, value in figures.items()}))


if __name__ == "__main__":
    main()
