"""Jobs as a training leaves them, for tests of what the page and REST say of them."""

from typing import Any

from sqlalchemy import select

from storage.database import Database, Session
from storage.jobs import submit_job
from storage.lease import NewEvent, Progress
from storage.schema.base_model import BaseModel
from storage.schema.dataset import DatasetVersion
from storage.schema.job import Job
from tests.evaluations import an_evaluation
from tests.stored import PREFIX_FIELDS, RECIPE, RENDERING, add_base_model, add_dataset, claim


def add_run(session: Session, name: str, **recipe: Any) -> Job:
    """A queued job; all of them share one dataset and one base model."""
    version = session.scalars(select(DatasetVersion)).first() or add_dataset(session)[1]
    base_model = session.scalars(select(BaseModel)).first() or add_base_model(session)
    return submit_job(
        session, name=name, dataset_version_id=version.id, base_model=base_model,
        recipe={**RECIPE, "learning_rate": None, **recipe}, rendering=RENDERING,
    )  # fmt: skip


def run_job(database: Database, name: str, loss: float, **recipe: Any) -> str:
    """A job that has succeeded, with a curve of three looks and two sample answers."""
    with database.write() as session:
        job_id = add_run(session, name, **recipe).id
    lease = claim(database)
    assert lease.job_id == job_id
    metrics = {"base_loss": 3.0, "validation_loss": loss, "num_examples": 160, "train_s": 12.0, "num_steps": 10}
    events = [NewEvent("evaluated", {"loss": 3.0}, 0)]
    for step in range(1, 11):
        events.append(NewEvent("step", {"loss": 3.5 - step / 10}, step))
        if step % 5 == 0:
            events.append(NewEvent("evaluated", {"loss": 3.0 - (3.0 - loss) * step / 10}, step))
            events.append(NewEvent("samples", {"rows": [{"prompt": "p", "prefix": f"{name} at {step}"}]}, step))
    with database.write() as session:
        lease.record(session, events, Progress(step=10, max_steps=10, metrics=metrics))
        lease.record(session, [], Progress(metrics={"evaluation": an_evaluation(few_shot="no difference")}))
        lease.succeed(session, {**PREFIX_FIELDS, "recipe": {**RECIPE, "learning_rate": 0.08}})
    return job_id
