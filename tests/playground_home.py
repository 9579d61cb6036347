"""A home folder with something to compare: a tiny base with a chat template, a table, two prefixes, their states."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.context import AppContext
from app.services import datasets
from app.services.base_models import require_ready
from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.jobs import submit_job
from storage.migrate import migrate
from storage.prefixes import create_prefix
from storage.schema.job import JobStatus
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.settings import read_settings
from storage.snapshots import list_snapshots
from tests.tiny import tiny_base_folder
from worker.engine.families import geometry
from worker.engine.prefix_file import PrefixArray, write_prefix_file

BASE, FIRST, SECOND = "tiny-llama", "restaurants", "<img src=x onerror=\"document.title='owned'\">\u202e"
NUM_VIRTUAL_TOKENS = 6
STEPS = (0, 20, 40, 60)
JOB = "0123456789abcdef"
PAUSED, PAUSED_STEPS = "half way", STEPS[:2]
"""A training that is not over; it has the first states of the first prefix."""

SNAPSHOT_FIELDS = (
    "step", "validation_loss", "artifact_hash", "size_bytes", "num_virtual_tokens", "base_fingerprint", "rendering",
)  # fmt: skip
RENDERING: dict[str, Any] = {
    "kind": "plain",
    "template": "{facts}",
    "target": "notice",
    "instruction": "Say where to eat.",
    "few_shot_seed": 0,
}


def fill_home(home: Path, models: Path) -> None:
    """Makes the home folder of a studio that has not been started yet.

    Args:
        home: To be made.
        models: To be made, for base models.
    """
    tiny_base_folder(models / BASE, chat=True)
    settings = replace(read_settings({"PREFIX_STUDIO_HOME": str(home)}), models=models)
    migrate(settings)
    context = AppContext(settings, open_database(settings), ArtifactStore(settings))
    try:
        version_id = _add_table(context, home.parent / "restaurants.csv")
        job_ids = dict(zip((FIRST, SECOND), (JOB, None), strict=True))
        for seed, (name, job_id) in enumerate(job_ids.items()):
            _add_prefix(context, home.parent, name, seed, {"job_id": job_id, "dataset_version_id": version_id})
        _add_paused_training(context, version_id)
    finally:
        context.readers.close()
        context.database.close()


def _add_table(context: AppContext, path: Path) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["facts", "notice"])
    for index in range(40):
        food = ("Italian", "French")[index % 2]
        writer.writerow([f"name: Place {index}, food: {food}", f"Place {index} serves {food} food."])
    path.write_text(table.getvalue())
    mapping = {"template": "{facts}", "target": "notice", "instruction": "Say where to eat."}
    return str(datasets.upload(context, [(path.name, path)], mapping)["version_id"])


def _add_paused_training(context: AppContext, version_id: str) -> None:
    base = require_ready(context, BASE)
    with context.database.write() as session:
        job = submit_job(
            session, name=PAUSED, dataset_version_id=version_id, base_model=base,
            recipe={"method": "prefix-tuning", "seed": 0}, rendering=RENDERING,
        )  # fmt: skip
        job.status, job.step, job.max_steps = JobStatus.PAUSED, PAUSED_STEPS[-1], STEPS[-1]
        for state in list_snapshots(session, JOB):
            if state.step in PAUSED_STEPS:
                told = {name: getattr(state, name) for name in SNAPSHOT_FIELDS}
                session.add(Snapshot(job_id=job.id, attempt=1, **told))


def _add_prefix(context: AppContext, folder: Path, name: str, seed: int, fields: dict[str, Any]) -> None:
    """A prefix of random numbers, and as its states those numbers at growing size."""
    base = require_ready(context, BASE)
    measured = geometry(base.config or {})
    shape = (measured.num_attentions, 2, measured.num_kv_heads, NUM_VIRTUAL_TOKENS, measured.head_dim)
    values = np.random.default_rng(seed).normal(scale=1.5, size=shape).astype(np.float32)

    def stored(share: float) -> tuple[str, int]:
        path = folder / "numbers.safetensors"
        write_prefix_file(path, PrefixArray.of("prefix-tuning", values * np.float32(share)))
        return context.store.put_file(path), path.stat().st_size

    digest, size_bytes = stored(1.0)
    shared = {"num_virtual_tokens": NUM_VIRTUAL_TOKENS, "base_fingerprint": base.fingerprint, "rendering": RENDERING}
    row = {
        **shared,
        **fields,
        "base_model_id": base.id,
        "base_model": base.name,
        "method": "prefix-tuning",
        "num_parameters": values.size,
        "size_bytes": size_bytes,
        "recipe": {"method": "prefix-tuning", "seed": 0},
        "metrics": {"base_loss": 3.25, "validation_loss": 1.5, "dtype": "float32", "num_steps": STEPS[-1]},
        "samples": [],
        "artifact_hash": digest,
    }
    with context.database.write() as session:
        prefix: Prefix = create_prefix(session, name, row)
        if prefix.job_id is None:
            return
        for step in STEPS:
            numbers, size = stored(step / STEPS[-1])
            loss = 3.0 - step / 40
            session.add(
                Snapshot(
                    job_id=prefix.job_id, attempt=1, step=step, validation_loss=loss, artifact_hash=numbers,
                    size_bytes=size, **shared,
                )
            )  # fmt: skip
