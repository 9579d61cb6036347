"""A home folder with a dataset and a tiny base model, and a trainer that runs inside the test."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import ArtifactStore
from storage.base_models import BaseModelRecord, register
from storage.bases.inspect import read_config
from storage.database import Database
from storage.datasets import create_dataset
from storage.jobs import events_after, get_job, submit_job
from storage.queue import claim_next
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.schema.job import Job, JobEvent
from storage.settings import Settings
from storage.tables.table import StoredTable
from worker.training.assignment import Assignment
from worker.training.run import run_attempts
from worker.training.workplace import Workplace

RECIPE = {
    "method": "prefix-tuning", "num_virtual_tokens": 4, "learning_rate": 0.05, "max_steps": 8, "batch_size": 4,
    "eval_every": 4, "seed": 1,
}  # fmt: skip


class Role:
    """A home folder with a dataset and a tiny base, and a trainer that runs in this process.

    Args:
        settings: Of the home folder.
        database: The open database.
        store: Its artifacts.
        folder: The tiny base.
        validation_fraction: Of 40 rows; the fewer are held out, the sooner a job has compared its prefix on them.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ArtifactStore,
        folder: Path,
        validation_fraction: float = 0.2,
    ) -> None:
        self.validation_fraction = validation_fraction
        self.database = database
        self.store = store
        self.terminated = threading.Event()
        self.workplace = Workplace(settings, database, store, self.terminated)
        self.folder = folder
        self.version_id, self.base = self._prepare()

    def _prepare(self) -> tuple[str, Any]:
        rows = {
            "food": ["Italian", "French", "Thai", "Greek", "Indian"] * 8,
            "text": ["A place for pasta.", "A place for bread.", "A place for rice.", "A place for olives.", "Curry."]
            * 8,
        }
        path = self.folder.parent / "rows.parquet"
        pq.write_table(pa.table(rows), path)
        table = StoredTable({"train": self.store.put_file(path)}, ["food", "text"], {"train": 40}, 900, "0" * 64, {})
        mapping = {
            "template": "food: {food}", "target": "text", "instruction": "Say what the place serves.",
            "validation_fraction": self.validation_fraction, "seed": 0, "rendering": "auto",
        }  # fmt: skip
        with self.database.write() as session:
            _, version = create_dataset(session, "food.csv", table, mapping, [])
            record = BaseModelRecord(
                "tiny",
                BaseModelSource.LOCAL,
                DownloadState.READY,
                path=str(self.folder),
                config=read_config(self.folder),
            )
            return version.id, register(session, record)

    def submit(self, **recipe: Any) -> str:
        rendering = {
            "kind": "auto", "template": "food: {food}", "target": "text", "instruction": "Say what the place serves.",
        }  # fmt: skip
        with self.database.write() as session:
            return submit_job(
                session, name="Food", dataset_version_id=self.version_id, base_model=self.base,
                recipe={**RECIPE, **recipe}, rendering=rendering,
            ).id  # fmt: skip

    def write_every_checkpoint(self) -> None:
        hasty = replace(self.workplace.settings, checkpoint_every_s=0.0)
        self.workplace = replace(self.workplace, settings=hasty)

    def claim(self) -> Assignment:
        with self.database.write() as session:
            lease = claim_next(session, "test")
        assert lease is not None
        return Assignment(lease.job_id, lease.attempt)

    def run(self) -> Job:
        assignment = self.claim()
        run_attempts(self.workplace, [assignment])
        return self.job(assignment.job_id)

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return get_job(session, job_id)

    def events(self, job_id: str, kind: str) -> list[JobEvent]:
        with self.database.read() as session:
            return [event for event in events_after(session, job_id) if event.kind == kind]

    def when(self, holds: Callable[[Job], bool], act: Callable[[Any, str], Any], job_id: str) -> threading.Thread:
        """Does something to the job from another thread, as a user would, once a condition holds."""

        def watch() -> None:
            while not holds(self.job(job_id)):
                time.sleep(0.01)
            with self.database.write() as session:
                act(session, job_id)

        thread = threading.Thread(target=watch)
        thread.start()
        return thread
