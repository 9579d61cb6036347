"""What one attempt does: read, load, encode, measure, train, compare, publish; it can be ended between two steps."""

import enum
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.disk import DiskFullError
from storage.errors import BusyError, ConflictError
from storage.queue import Lease
from storage.settings import Settings
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, weights_hash
from worker.engine.checkpoint import TrainingState
from worker.engine.errors import ContextOverflowError
from worker.engine.evaluate import evaluate
from worker.engine.events import Checkpointed, Finished
from worker.engine.prompt_tuning import load_bank
from worker.engine.train import Control, train
from worker.training.checkpoints import Checkpoints
from worker.training.comparison import compare
from worker.training.inputs import Inputs, Task, encode, load_task_base, read_task
from worker.training.progress import Follower
from worker.training.publish import Publication, publish
from worker.training.recorder import Recorder
from worker.training.samples import Samples


class Outcome(enum.Enum):
    """How an attempt ends, and what its user or the machine may wish for between two steps."""

    PUBLISHED = enum.auto()  # the prefix is kept; as a wish: end now
    DISCARDED = enum.auto()  # nothing is kept
    PAUSED = enum.auto()  # a checkpoint is kept, the job waits to be resumed
    RELEASED = enum.auto()  # a checkpoint is kept, the job goes back to the queue


@dataclass(frozen=True)
class Prepared:
    """What stands in memory when the training begins."""

    task: Task
    base: LoadedBase
    inputs: Inputs
    samples: Samples
    hash_before: str
    measured: dict[str, Any]
    resume: TrainingState | None


class Attempt:
    """One attempt of a job.

    Args:
        settings: Where the caches lie, and how often to write a checkpoint.
        database: The open database.
        store: Keeps checkpoints, logs and prefixes.
        lease: The attempt's right to write.
        recorder: Writes progress.
        wish: Asked between steps; None lets the attempt go on.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ArtifactStore,
        lease: Lease,
        recorder: Recorder,
        wish: Callable[[], Outcome | None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._store = store
        self._lease = lease
        self._recorder = recorder
        self._wish = wish
        self.checkpoints = Checkpoints(database, store, lease)

    def run(self) -> Outcome:
        """Does all of it.

        Raises:
            StudioError: Something that it needs is gone, or there is no room.
            EngineError: The base, the recipe or the rows are refused, or the training failed.
            LeaseLostError: Another attempt owns the job.
        """
        prepared = self._prepare()
        if isinstance(prepared, Outcome):
            return prepared
        follower = Follower(self._recorder, prepared.base, prepared.task.job.metrics)
        keeper = _Keeper(self.checkpoints, self._recorder, prepared, self._settings.checkpoint_every_s)
        finished = self._train(prepared, follower, keeper)
        if isinstance(finished, Outcome):
            return finished
        self._recorder.stage("Writing sample answers")
        bank = load_bank(prepared.base, [finished.prefix])
        rows = prepared.samples.answer(bank)
        metrics = {**prepared.measured, **follower.final_metrics(finished), **self._proof(prepared)}
        self._recorder.progress(metrics={**metrics, "samples": rows}, step=finished.num_steps, eta_s=0.0)
        self._recorder.add("samples", {"rows": rows}, finished.best_step)
        metrics["evaluation"] = self._compare(prepared, finished, bank, metrics["train_s"])
        if (wish := self._unless_kept()) is not None:
            if wish is not Outcome.DISCARDED:
                keeper.write_latest()
            return wish
        self._recorder.stage("Publishing the prefix")
        publication = Publication(prepared.task, prepared.inputs, finished, metrics, rows)
        publish(self._database, self._store, self._lease, publication)
        return Outcome.PUBLISHED

    def _prepare(self) -> Prepared | Outcome:
        self._recorder.stage("Reading the examples")
        task = read_task(self._settings, self._database, self._store, self._lease.job_id)
        resume = self.checkpoints.latest(task.fingerprint)
        self._recorder.stage("Loading the base model")
        began = time.monotonic()
        base = load_task_base(task)
        self._recorder.log(
            f"{task.base_model.name} is loaded in {time.monotonic() - began:.1f} s: {base.num_parameters:,} "
            f"parameters, {base.number_format} on {base.device.type}."
        )
        if (wish := self._unless_kept()) is not None:
            return wish
        self._recorder.stage("Turning rows into tokens")
        inputs = encode(task, base, self._settings.home / "cache" / "tokens")
        if (wish := self._unless_kept()) is not None:
            return wish
        self._recorder.stage("Measuring the base model")
        measured = self._measure(task, base, inputs)
        samples = Samples(base, inputs.rendering, inputs.validation_rows)
        return self._unless_kept() or Prepared(task, base, inputs, samples, weights_hash(base.model), measured, resume)

    def _measure(self, task: Task, base: LoadedBase, inputs: Inputs) -> dict[str, Any]:
        """The written instruction's loss, and what the recipe came to; the base's own loss comes with the training."""
        recipe = inputs.recipe
        measured: dict[str, Any] = {
            "num_virtual_tokens": recipe.num_virtual_tokens,
            "batch_size": recipe.batch_size,
            "rendering": inputs.rendering.kind,
            "device": base.device.type,
            "dtype": str(base.dtype).removeprefix("torch."),
            "left_out_validation_rows": inputs.left_out_validation,
        }
        told = {"instruction_loss": ("the written instruction", inputs.instructed)}
        told["few_shot_loss"] = ("examples", inputs.shown)
        for name, (words, examples) in told.items():
            try:
                if examples:
                    measured[name] = evaluate(base, None, examples).loss
            except ContextOverflowError:
                self._recorder.log(f"With {words} in front no validation row fits into the context.")
        self._recorder.progress(metrics=measured)
        return measured

    def _train(self, prepared: Prepared, follower: Follower, keeper: "_Keeper") -> Finished | Outcome:
        inputs, control = prepared.inputs, Control()
        events = train(
            prepared.base,
            inputs.train,
            inputs.validation,
            inputs.recipe,
            init_ids=inputs.init_ids,
            control=control,
            resume=prepared.resume,
        )
        for event in events:
            follower.hear(event)
            if isinstance(event, Finished):
                return event
            wish = self._wish()
            if wish is Outcome.DISCARDED:
                _close(events)
                return wish
            if wish in (Outcome.PAUSED, Outcome.RELEASED) and isinstance(event, Checkpointed):
                keeper.write(event.state)
                self._recorder.flush()
                _close(events)
                return wish
            control.stop_requested = wish is Outcome.PUBLISHED
            control.checkpoint_requested = wish in (Outcome.PAUSED, Outcome.RELEASED) or keeper.is_due()
            if isinstance(event, Checkpointed):
                keeper.keep(event)
        raise AssertionError("a training ends with Finished")

    def _compare(self, prepared: Prepared, finished: Finished, bank: PrefixBank, train_s: float) -> dict[str, Any]:
        """The verdict on held-out rows; whoever has stopped the training already is not kept from it."""
        self._recorder.stage("Comparing with the base model")
        passed = {None, Outcome.PUBLISHED} if finished.stopped_early else {None}
        evaluation = compare(
            prepared.task,
            prepared.base,
            prepared.inputs,
            bank,
            train_s=train_s,
            is_asked_to_end=lambda: self._wish() not in passed,
        )
        self._recorder.progress(metrics={"evaluation": evaluation})
        return evaluation

    def _proof(self, prepared: Prepared) -> dict[str, Any]:
        """Shows that the base is what it was before the training.

        Raises:
            ConflictError: It is not, so the prefix belongs to no base that anybody has.
        """
        hash_after = weights_hash(prepared.base.model)
        if hash_after != prepared.hash_before:
            raise ConflictError(
                f"The base model's weights changed in memory during the training ({prepared.hash_before[:16]} → "
                f"{hash_after[:16]}), so its prefix is not published. Run a copy, and report this if it comes again."
            )
        return {"base_unchanged": True, "weights_hash": hash_after}

    def _unless_kept(self) -> Outcome | None:
        """A wish that ends the attempt before its training; one to keep waits until there is something to keep."""
        wish = self._wish()
        return None if wish is Outcome.PUBLISHED else wish


class _Keeper:
    """Writes a checkpoint every now and then, and shows what the prefix answers by now."""

    def __init__(self, checkpoints: Checkpoints, recorder: Recorder, prepared: Prepared, every_s: float) -> None:
        self._checkpoints = checkpoints
        self._recorder = recorder
        self._samples = prepared.samples
        self._base_fingerprint = prepared.task.fingerprint
        self._every_s = every_s
        self._kept_at = time.monotonic()
        self._latest: TrainingState | None = None

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for the next one."""
        return time.monotonic() - self._kept_at > self._every_s

    def keep(self, event: Checkpointed) -> None:
        """Writes the state where one is due, and answers the samples where that takes little time."""
        self._latest = event.state
        if self.is_due():
            self.write(event.state)
        if event.state.progress.evaluated_step == event.step and self._samples.is_affordable():
            rows = self._samples.answer_with(event.state)
            self._recorder.add("samples", {"rows": rows}, event.step)
            self._recorder.progress(metrics={"samples": rows})

    def write_latest(self) -> None:
        """Writes the last state, so that an attempt that is ended after its training goes on behind it."""
        if self._latest is not None:
            self.write(self._latest)
            self._recorder.flush()

    def write(self, state: TrainingState) -> None:
        """Writes the state; a full disk or a busy database is told, and the checkpoint before it stands."""
        try:
            self._checkpoints.write(state, self._base_fingerprint)
        except (BusyError, DiskFullError) as error:
            self._recorder.log(f"This checkpoint is left out: {error.message}", level="warning")
        self._kept_at = time.monotonic()


def _close(events: object) -> None:
    if isinstance(events, Generator):
        events.close()
