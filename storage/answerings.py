"""Answering jobs: every row of an uploaded table answered by a prefix, or by its base alone, in the same queue."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.errors import ConflictError, NotFoundError
from storage.jobs import get_job, place_at_end
from storage.lease import Lease
from storage.names import check_name, numbered
from storage.prefixes import get_prefix
from storage.schema.answering import Answering
from storage.schema.job import Job, JobKind
from storage.schema.prefix import Prefix
from storage.settings import OWNER
from storage.tables.table import StoredTable

ANSWER_COLUMN = "answer"


def submit_answering(
    session: Session,
    prefix: Prefix,
    table: StoredTable,
    *,
    file_name: str,
    mapping: dict[str, str],
    settings: dict[str, Any],
    uses_prefix: bool = True,
) -> Job:
    """Puts a table at the end of the queue.

    Args:
        session: A writing session.
        prefix: It answers, or its base does, asked in its rendering.
        table: The uploaded table; all its rows lie in the part `train`.
        file_name: Name under which it was uploaded.
        mapping: Column of the prefix's template to column of the table.
        settings: See `Answering.settings`.
        uses_prefix: False lets the base answer alone.

    Raises:
        InvalidInputError: The table's name cannot be shown.
    """
    job = Job(
        name=check_name(shortened(file_name)),
        kind=JobKind.ANSWERING,
        base_model_id=prefix.base_model_id,
        base_model=prefix.base_model,
        method=prefix.method,
        recipe=dict(prefix.recipe),
        rendering=dict(prefix.rendering),
        max_steps=table.num_rows["train"],
    )
    place_at_end(session, job)
    session.add(
        Answering(
            job_id=job.id,
            prefix_id=prefix.id,
            prefix_name=prefix.name,
            uses_prefix=uses_prefix,
            file_name=file_name[:200],
            table_hash=table.blobs["train"],
            columns=list(table.columns),
            num_rows=table.num_rows["train"],
            detected=dict(table.detected),
            mapping=dict(mapping),
            settings=dict(settings),
            answer_column=free_column(table.columns, ANSWER_COLUMN),
        )
    )
    session.flush()
    return job


def duplicate_answering(session: Session, job_id: str) -> Job:
    """Submits the same table to the same prefix once more.

    Raises:
        NotFoundError: There is no such job, or its prefix was deleted.
    """
    answering = get_answering(session, job_id)
    stored = StoredTable(
        {"train": answering.table_hash}, answering.columns, {"train": answering.num_rows}, 0, "", answering.detected
    )
    return submit_answering(
        session,
        get_prefix(session, answering.prefix_id),
        stored,
        file_name=answering.file_name,
        mapping=answering.mapping,
        settings=answering.settings,
        uses_prefix=answering.uses_prefix,
    )


def get_answering(session: Session, job_id: str, prefix_id: str | None = None) -> Answering:
    """What an answering job works on.

    Args:
        session: Any session.
        job_id: The job.
        prefix_id: Where given, it has to be a job of this prefix.

    Raises:
        NotFoundError: There is no such job.
    """
    query = select(Answering).join(Job).where(Answering.job_id == job_id, Job.owner == OWNER)
    if prefix_id is not None:
        query = query.where(Answering.prefix_id == prefix_id)
    found = session.scalar(query)
    if found is None:
        raise NotFoundError(f"There is no answering job with the id {job_id!r}. It may have been deleted.")
    return found


def answerings_of_prefix(session: Session, prefix_id: str) -> list[tuple[Job, Answering]]:
    """The tables that a prefix was given to answer, the newest first."""
    query = select(Job, Answering).join(Answering, Answering.job_id == Job.id)
    query = query.where(Answering.prefix_id == prefix_id, Job.owner == OWNER)
    return [(job, each) for job, each in session.execute(query.order_by(Job.created_at.desc(), Job.id))]


def answerings_of(session: Session, job_ids: Iterable[str]) -> dict[str, Answering]:
    """What some jobs work on, by the id of the job; jobs of other kinds are left out."""
    found = session.scalars(select(Answering).where(Answering.job_id.in_(list(job_ids))))
    return {answering.job_id: answering for answering in found}


def publish_answers(
    session: Session, lease: Lease, result_hash: str, metrics: dict[str, Any], *, stopped_early: bool = False
) -> None:
    """Keeps the answered table and ends the job, both or neither.

    Args:
        session: A writing session.
        lease: The attempt.
        result_hash: SHA-256 of the answered table, which the artifact store holds already.
        metrics: Figures of the whole job.
        stopped_early: Its user ended it before its last row.

    Raises:
        LeaseLostError: The attempt has ended.
    """
    metrics = {**get_job(session, lease.job_id).metrics, **metrics}
    lease.finish(session, metrics=metrics, stopped_early=stopped_early)
    session.execute(update(Answering).where(Answering.job_id == lease.job_id).values(result_hash=result_hash))


def answer_hashes(session: Session) -> set[str]:
    """SHA-256 of every blob that an answering job names: tables that came in, and answered ones."""
    hashes = session.execute(select(Answering.table_hash, Answering.result_hash))
    return {sha256 for pair in hashes for sha256 in pair if sha256 is not None}


def require_result(answering: Answering) -> str:
    """SHA-256 of the answered table.

    Raises:
        ConflictError: The job has not come to it.
    """
    if answering.result_hash is None:
        raise ConflictError(
            f"{answering.file_name!r} has no answers to download yet. Wait until its job has succeeded, or stop it "
            "and keep what there is."
        )
    return answering.result_hash


def free_column(columns: Sequence[str], wish: str) -> str:
    """A name for one more column that no column has, whatever its case."""
    taken = {name.casefold() for name in columns}
    name, number = wish, 1
    while name.casefold() in taken:
        number += 1
        name = numbered(wish, number)
    return name


def shortened(file_name: str) -> str:
    """The name of a file as that of a job: without folders, and not longer than names may be."""
    name = file_name.replace("\\", "/").rpartition("/")[2].strip() or "table"
    shown = "".join(each for each in name if each.isprintable())
    return shown if len(shown) <= 80 else f"{shown[:50]}…{shown[-29:]}"
