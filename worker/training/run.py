"""Attempts from their assignments to their ends, whatever those are."""

from collections.abc import Sequence
from contextlib import ExitStack

from storage.errors import NotFoundError
from storage.jobs import get_job
from storage.schema.job import JobKind
from worker.answering.attempt import AnsweringAttempt
from worker.training.assignment import Assignment
from worker.training.tenure import Tenure
from worker.training.together import run_together
from worker.training.workplace import Workplace

PassKey = tuple[str, ...]
"""What jobs have in common that may share a pass."""


def run_attempts(workplace: Workplace, assignments: Sequence[Assignment]) -> None:
    """Runs attempts, those over one base in one pass; each job's row says how it ended, and no error leaves this.

    Args:
        workplace: What the trainer works with.
        assignments: Their leases are kept alive from the first moment, also of those that wait for others.
    """
    with ExitStack() as held:
        groups: dict[PassKey, list[Tenure]] = {}
        for assignment in assignments:
            tenure = held.enter_context(Tenure(workplace, assignment))
            groups.setdefault(_pass_key(workplace, assignment), []).append(tenure)
        for (kind, *_), tenures in groups.items():
            if kind == JobKind.ANSWERING:
                for tenure in tenures:
                    tenure.go_on(AnsweringAttempt(tenure.mandate).run)
            else:
                run_together(tenures)


def _pass_key(workplace: Workplace, assignment: Assignment) -> PassKey:
    try:
        with workplace.database.read() as session:
            job = get_job(session, assignment.job_id)
    except NotFoundError:
        return (assignment.job_id,)  # it ends by itself, as soon as it asks for its rows
    return (job.kind, job.base_model_id, str(job.recipe.get("precision", "auto")))
