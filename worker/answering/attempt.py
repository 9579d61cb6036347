"""What one attempt of an answering job does: read, load, answer batch by batch, write the table, publish."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from storage.answerings import publish_answers
from storage.database import Session
from storage.disk import DiskFullError
from storage.tables.view import iterate_columns
from worker.answering.answerer import Answerer, Sampling
from worker.answering.checkpoints import AnswerCheckpoints, patiently
from worker.answering.journal import Journal
from worker.answering.limits import AnswerLimits, limits_of
from worker.answering.pace import Pace
from worker.answering.questions import Answer, Asker, Question
from worker.answering.result import write_answered
from worker.answering.task import AnsweringTask, read_answering
from worker.engine.base import LoadedBase, load_base
from worker.engine.generate import end_ids
from worker.engine.rendering import Rendering
from worker.engine.tokens import choose_rendering_kind, end_token_id
from worker.inference.registry import Registry
from worker.training.full_disk import once_there_is_room
from worker.training.mandate import Mandate, Outcome

RESULT_NAME = "answered.parquet"
LOOK_EVERY = 64
"""Rows that are encoded between two looks at what the user wishes."""


@dataclass(frozen=True)
class Prepared:
    """What stands in memory when the first row is asked."""

    task: AnsweringTask
    asker: Asker
    answerer: Answerer
    limits: AnswerLimits
    journal: Journal


class AnsweringAttempt:
    """One attempt of an answering job.

    Args:
        mandate: What it works with.
    """

    def __init__(self, mandate: Mandate) -> None:
        self._mandate = mandate
        self._recorder = mandate.recorder
        self._wish = mandate.wish
        self._checkpoints = AnswerCheckpoints(mandate.database, mandate.store, mandate.lease)

    def run(self) -> Outcome:
        """Does all of it.

        Raises:
            StudioError: Something that it needs is gone, or there is no room.
            EngineError: The base or the prefix is refused, or one row alone takes too much memory.
            LeaseLostError: Another attempt owns the job.
        """
        self._recorder.stage("Reading the table")
        task = read_answering(
            self._mandate.settings, self._mandate.database, self._mandate.store, self._mandate.lease.job_id
        )
        header = self._checkpoints.header(task.fingerprint)
        self._recorder.stage("Loading the base model")
        began = time.monotonic()
        base = load_base(task.base.folder, dtype=task.base.precision)
        self._recorder.log(
            f"{task.base.name} is loaded in {time.monotonic() - began:.1f} s: {base.num_parameters:,} parameters, "
            f"{base.number_format} on {base.device.type}."
        )
        if (wish := self._wish()) not in (None, Outcome.PUBLISHED):
            return wish
        prepared = self._prepare(task, base, AnswerLimits(**header["limits"]) if header else None)
        try:
            outcome = self._answer_and_publish(prepared)
        finally:
            prepared.journal.close()
        if outcome in (Outcome.DISCARDED, Outcome.PUBLISHED):
            self._checkpoints.delete_all()
        return outcome

    def _prepare(self, task: AnsweringTask, base: LoadedBase, limits: AnswerLimits | None) -> Prepared:
        rendering = replace(
            task.prefix.rendering, kind=choose_rendering_kind(base.tokenizer, task.prefix.rendering.kind)
        )
        limits = limits or self._limits(task, base, rendering)
        wishes = task.answering.settings
        sampling = Sampling(
            temperature=float(wishes.get("temperature") or 0.0),
            top_p=float(wishes.get("top_p") or 1.0),
            seed=int(wishes.get("seed") or 0),
        )
        asker = Asker(
            base.tokenizer,
            base.geometry,
            rendering,
            task.answering.mapping,
            num_virtual_tokens=task.num_virtual_tokens,
            max_tokens=limits.max_tokens,
        )
        ends = end_ids(base, end_token_id(base.tokenizer, rendering.kind))
        answerer = Answerer(base, task.load_bank(base), ends, limits, sampling)
        header = {"base_fingerprint": task.fingerprint, "limits": limits.to_dict()}
        journal = self._checkpoints.begin(header, task.answering.num_rows)
        measured = {
            "max_tokens": limits.max_tokens,
            "device": base.device.type,
            "dtype": str(base.dtype).removeprefix("torch."),
        }
        self._recorder.progress(step=journal.num_answered, max_steps=task.answering.num_rows, metrics=measured)
        return Prepared(task, asker, answerer, limits, journal)

    def _limits(self, task: AnsweringTask, base: LoadedBase, rendering: Rendering) -> AnswerLimits:
        rows = Registry(self._mandate.database, self._mandate.store).training_rows(task.prefix)
        return limits_of(base.tokenizer, rendering, rows, task.answering.settings.get("max_tokens"))

    def _answer_and_publish(self, prepared: Prepared) -> Outcome:
        num_rows, journal = prepared.task.answering.num_rows, prepared.journal
        self._recorder.stage("Answering")
        pace = Pace(self._recorder, journal.num_answered, num_rows)
        for batch in self._batches(prepared):
            answers = prepared.answerer.answer(batch, lambda: self._ended_by(journal) is not None)
            if answers is not None and self._keep(journal, answers):
                pace.tell(journal.num_answered, batch, answers)
            if self._ended_by(journal) is not None:
                break
        ended_by = self._ended_by(journal)
        if ended_by in (None, Outcome.PUBLISHED):
            ended_by = self._publish(prepared)
        return ended_by or Outcome.PUBLISHED

    def _keep(self, journal: Journal, answers: Sequence[Answer]) -> bool:
        """Writes answers down; False where the disk was full until a wish ended the attempt: the next asks them again.

        Raises:
            DiskFullError: There was no room for too long.
        """
        was_full = False

        def write() -> None:
            nonlocal was_full
            try:
                journal.write(answers)
            except DiskFullError:
                was_full = True
                raise

        ended_by = once_there_is_room(write, self._recorder, lambda: self._ended_by(journal), keeping="the answers")
        if was_full and ended_by is None:
            self._recorder.stage("Answering")
        return ended_by is None

    def _ended_by(self, journal: Journal) -> Outcome | None:
        """A wish that ends the answering; one to keep what there is waits until there is something."""
        wish = self._wish()
        return None if wish is Outcome.PUBLISHED and not journal.num_answered else wish

    def _batches(self, prepared: Prepared) -> Iterator[list[Question]]:
        """What is still to be asked, a part of the table after the other; rows that cannot be asked are noted."""
        journal, start = prepared.journal, 0
        for columns in iterate_columns(prepared.task.table, prepared.asker.columns):
            stop = start + len(columns[0])
            asked: list[Question] = []
            refused: list[Answer] = []
            if not all(journal.has(row) for row in range(start, stop)):
                for row, cells in enumerate(zip(*columns, strict=True), start):
                    made = prepared.asker.ask(row, cells)
                    asked += [made] if isinstance(made, Question) else []
                    refused += [made] if isinstance(made, Answer) and not journal.has(row) else []
                    if row % LOOK_EVERY == 0 and self._ended_by(journal) is not None:
                        return
            if refused and not self._keep(journal, refused):
                return
            # Planned as if nothing were answered yet, so that an attempt that goes on has the batches of the first.
            for batch in prepared.answerer.plan(asked):
                missing = [question for question in batch if not journal.has(question.row)]
                if missing:
                    yield missing
            start = stop

    def _publish(self, prepared: Prepared) -> Outcome | None:
        """Keeps the answered table; on a full disk it waits for room, unless its user or the machine wishes otherwise.

        Raises:
            DiskFullError: There was no room for too long.
        """

        def wish() -> Outcome | None:
            wished = self._wish()
            return None if wished is Outcome.PUBLISHED else wished

        return once_there_is_room(
            lambda: self._write_and_publish(prepared), self._recorder, wish, keeping="the answered table"
        )

    def _write_and_publish(self, prepared: Prepared) -> None:
        self._recorder.stage("Writing the table")
        answering = prepared.task.answering
        path = self._mandate.store.run_folder(self._mandate.lease.job_id, self._mandate.lease.attempt) / RESULT_NAME
        columns, report = write_answered(prepared.task.table, prepared.journal, path, answering.answer_column)
        try:
            result_hash = self._mandate.store.put_file(path)
        finally:
            path.unlink()
        metrics = {**report.to_dict(is_labels=prepared.limits.is_labels), "columns": columns}
        self._recorder.progress(step=prepared.journal.num_answered, eta_s=0.0)
        self._recorder.flush()
        stopped_early = report.not_reached > 0

        def write(session: Session) -> None:
            self._recorder.write(session)
            publish_answers(session, self._mandate.lease, result_hash, metrics, stopped_early=stopped_early)

        patiently(self._mandate.database, write)
