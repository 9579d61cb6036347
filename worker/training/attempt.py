"""What one attempt does: read, load, encode, measure, train, compare, publish; it can be ended between two steps."""

from dataclasses import dataclass
from typing import Any

from storage.errors import ConflictError
from storage.jobs import get_job
from storage.room import require_room
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, weights_hash
from worker.engine.checkpoint import TrainingState
from worker.engine.errors import ContextOverflowError
from worker.engine.evaluate import evaluate
from worker.engine.events import Checkpointed, Event, Failed, Finished, Looked
from worker.engine.memory import estimate_disk_bytes
from worker.engine.prompt_tuning import load_bank
from worker.engine.train import Control
from worker.engine.training import Training
from worker.training.bases import Bases
from worker.training.checkpoints import Checkpoints, unlike
from worker.training.comparison import compare
from worker.training.full_disk import once_there_is_room
from worker.training.inputs import Inputs, Task, encode, read_task
from worker.training.keeper import Keeper
from worker.training.mandate import Mandate, Outcome
from worker.training.progress import Follower
from worker.training.publish import Publication, publish
from worker.training.samples import Samples
from worker.training.snapshots import Snapshots


@dataclass(frozen=True)
class Prepared:
    """What stands in memory when the training begins."""

    task: Task
    base: LoadedBase
    inputs: Inputs
    samples: Samples
    hash_before: str
    measured: dict[str, Any]


class Attempt:
    """One attempt of a job. It is prepared, hears the events of its training, and is ended by an outcome of either.

    The training itself belongs to whoever drives it (`together`), because several attempts may share one pass.

    Args:
        mandate: What it works with.

    Attributes:
        control: What the training is asked for between steps.
    """

    def __init__(self, mandate: Mandate) -> None:
        self.control = Control()
        self._mandate = mandate
        self._lease = mandate.lease
        self._recorder = mandate.recorder
        self._wish = mandate.wish
        self._checkpoints = Checkpoints(mandate.database, mandate.store, mandate.lease)

    @property
    def base(self) -> LoadedBase:
        """The base that it trains on, once it is prepared."""
        return self._prepared.base

    @property
    def training(self) -> Training:
        """What the engine is asked for."""
        inputs = self._prepared.inputs
        return Training(inputs.train, inputs.validation, inputs.recipe, inputs.init_ids)

    def share(self, num_jobs: int) -> None:
        """Says that the training shares its pass, and so its time, with other jobs."""
        self._prepared.measured["jobs_in_pass"] = num_jobs
        self._recorder.progress(metrics={"jobs_in_pass": num_jobs})
        self._recorder.log(
            f"Training in one pass with {num_jobs - 1} more of the jobs that waited for this base model."
        )

    def begin(self) -> TrainingState | None:
        """The state that the training goes on from; None where it starts from its beginning.

        After a pass that broke off this is called again, and gives the last state that the attempt was told.
        """
        self._recorder.flush()
        with self._mandate.database.read() as session:
            metrics = get_job(session, self._lease.job_id).metrics
        self._follower = Follower(self._recorder, self.base, metrics)
        return self._keeper.latest or self._resume

    def prepare(self, bases: Bases) -> Outcome | None:
        """Gets everything ready for the training, or ends the attempt.

        Args:
            bases: Loads the base, or has it already.

        Raises:
            StudioError: Something that it needs is gone.
            EngineError: The base, the recipe or the rows are refused.
            LeaseLostError: Another attempt owns the job.
        """
        self._recorder.stage("Reading the examples")
        task = read_task(self._mandate.settings, self._mandate.database, self._mandate.store, self._lease.job_id)
        state = self._checkpoints.latest(task.fingerprint)
        self._recorder.stage("Loading the base model")
        base = bases.load(task, self._recorder)
        if (wish := self._unless_kept()) is not None:
            return wish
        self._recorder.stage("Turning rows into tokens")
        inputs = encode(task, base, self._mandate.settings.home / "cache" / "tokens")
        if (wish := self._unless_kept()) is not None:
            return wish
        if state is None:
            require_room(self._mandate.settings, estimate_disk_bytes(base.geometry, inputs.recipe))
        self._recorder.stage("Measuring the base model")
        measured = self._measure(task, base, inputs)
        samples = Samples(base, inputs.rendering, inputs.validation_rows)
        self._prepared = Prepared(task, base, inputs, samples, weights_hash(base.model), measured)
        self._resume = self._fitting(state)
        every_s = self._mandate.settings.checkpoint_every_s
        self._keeper = Keeper(self._checkpoints, self._recorder, samples, task.fingerprint, every_s)
        self._snapshots = Snapshots(
            self._mandate.database, self._mandate.store, self._recorder, task.fingerprint, inputs.rendering
        )
        return self._unless_kept()

    def hear(self, event: Event) -> Outcome | None:
        """Notes an event of the training; an outcome ends the attempt, which then wants no further event.

        Raises:
            StudioError: Something that it needs is gone, or there is no room.
            EngineError: The training failed.
            LeaseLostError: Another attempt owns the job.
        """
        self._follower.hear(event)
        self._snapshots.hear(event)
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            return self._finish(event)
        wish = self._wish()
        if wish is Outcome.DISCARDED:
            return wish
        if isinstance(event, Looked):
            self._keeper.look(event)
        is_leaving = wish in (Outcome.PAUSED, Outcome.RELEASED)
        if is_leaving and isinstance(event, Checkpointed):
            self._keeper.write(event.state)
            self._recorder.flush()
            return wish
        self.control.stop_requested = wish is Outcome.PUBLISHED
        self.control.checkpoint_requested = is_leaving or self._keeper.is_due()
        if isinstance(event, Checkpointed):
            self._keeper.keep(event)
        return None

    def _finish(self, finished: Finished) -> Outcome:
        """From the trained prefix to its publication."""
        prepared = self._prepared
        self._recorder.stage("Writing sample answers")
        bank = load_bank(prepared.base, [finished.prefix])
        rows = prepared.samples.answer(bank)
        metrics = {**prepared.measured, **self._follower.final_metrics(finished), **self._proof(prepared)}
        self._recorder.progress(metrics={**metrics, "samples": rows}, step=finished.num_steps, eta_s=0.0)
        self._recorder.add("samples", {"rows": rows}, finished.best_step)
        metrics["evaluation"] = self._compare(prepared, finished, bank, metrics["train_s"])
        if (wish := self._unless_kept()) is not None:
            if wish is not Outcome.DISCARDED:
                self._keeper.write_latest()
            return wish
        publication = Publication(prepared.task, prepared.inputs, finished, metrics, rows)
        if (wish := self._publish(publication)) is not None:
            return wish
        return Outcome.PUBLISHED

    def _publish(self, publication: Publication) -> Outcome | None:
        """Keeps the prefix; on a full disk it waits for room, unless its user or the machine wishes otherwise.

        Raises:
            DiskFullError: There was no room for too long; a retry goes on from the last checkpoint.
        """

        def act() -> None:
            self._recorder.stage("Publishing the prefix")
            publish(self._mandate.database, self._mandate.store, self._recorder, publication)

        return once_there_is_room(act, self._recorder, self._unless_kept, keeping="the prefix")

    def _fitting(self, state: TrainingState | None) -> TrainingState | None:
        """A state of this very training, or None: one of other settings or rows is never mixed with these."""
        for message in self._checkpoints.passed_over:
            self._recorder.log(message, level="warning")
        reason = "none that can be read is left" if self._checkpoints.passed_over else None
        if state is not None:
            reason = unlike(state.progress, self.base, self.training)
        if reason is None:
            return state
        self._recorder.log(
            f"The training does not go on from its checkpoint but begins anew: {reason}.", level="warning"
        )
        return None

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
