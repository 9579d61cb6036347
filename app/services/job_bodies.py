"""Rows of jobs and of their events as the dictionaries that REST and the page share."""

from datetime import datetime
from typing import Any

from app.services import verdict
from storage.schema.answering import Answering
from storage.schema.job import Job, JobEvent


def job_body(job: Job, queue: list[str], *, with_rows: bool = True) -> dict[str, Any]:
    """A job as REST answers with it.

    Args:
        job: Its row.
        queue: Ids of the jobs that wait, in their order.
        with_rows: Whether the rows of its evaluation are wanted.
    """
    return {
        "id": job.id,
        "kind": job.kind.value,
        "name": job.name,
        "status": job.status.value,
        "stage": job.stage,
        "stop_request": job.stop_request.value if job.stop_request else None,
        "step": job.step,
        "max_steps": job.max_steps,
        "metrics": verdict.body(job.metrics, with_rows=with_rows),
        "eta_s": job.eta_s,
        "error": job.error,
        "prefix_id": job.prefix_id,
        "stopped_early": job.stopped_early,
        "base_model": job.base_model,
        "method": job.method,
        "attempt": job.attempt,
        "jobs_ahead": queue.index(job.id) if job.id in queue else 0,
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
    }


def answers_body(answering: Answering) -> dict[str, Any]:
    """What a job of the kind `answering` works on.

    `download` is None until there are answers, and `format` what it gives unless another one is asked for.
    """
    address = f"/api/v1/prefixes/{answering.prefix_id}/answers/{answering.job_id}/download"
    return {
        "prefix_id": answering.prefix_id,
        "prefix_name": answering.prefix_name,
        "uses_prefix": answering.uses_prefix,
        "file_name": answering.file_name,
        "num_rows": answering.num_rows,
        "columns": answering.columns,
        "mapping": answering.mapping,
        "settings": answering.settings,
        "answer_column": answering.answer_column,
        "format": "xlsx" if is_workbook(answering) else "csv",
        "download": address if answering.result_hash else None,
    }


def is_workbook(answering: Answering) -> bool:
    """Whether the table came as a workbook of Excel."""
    return _file_of(answering).get("format") == "xlsx"


def sheet_of(answering: Answering) -> str:
    """What the sheet with the answers is called: as the one that the table came from."""
    return str(_file_of(answering).get("sheet") or "Answers")[:31]


def _file_of(answering: Answering) -> dict[str, Any]:
    files = answering.detected.get("files") or [answering.detected]
    return dict(files[0])


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def event_body(event: JobEvent) -> dict[str, Any]:
    """One thing that happened to a job, as its stream of events carries it."""
    return {
        "id": event.id,
        "kind": event.kind,
        "step": event.step,
        "attempt": event.attempt,
        "at": _moment(event.created_at),
        "data": event.data,
    }


def log_lines_of(event: JobEvent) -> list[str]:
    """An event as lines of the job's log."""
    if event.kind == "state":
        reason = event.data.get("reason")
        text = f"attempt {event.attempt}: {event.data.get('status')}" + (f" because {reason}" if reason else "")
    else:
        text = str(event.data.get("message", ""))
    first, *rest = text.splitlines() or [""]
    return [f"{event.created_at:%H:%M:%S} {first}", *(f"         {line}" for line in rest)]
