"""Downloads of base models: asked for by a user, started by the dispatcher, reported by the child that fetches."""

from dataclasses import replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.base_models import UNDER_WAY, BaseModelRecord, get_base_model, get_base_model_by_id, register
from storage.errors import ConflictError
from storage.schema.base_model import BaseModel, DownloadState


def request_download(session: Session, name: str) -> BaseModel:
    """Asks for the files of a base model; the dispatcher starts the download. Asking again changes nothing.

    Raises:
        NotFoundError: There is no such base model.
        ConflictError: It is on this machine already.
    """
    base_model = get_base_model(session, name)
    if base_model.download_state == DownloadState.READY:
        raise ConflictError(f"{name} is on this machine already; nothing is left to download.")
    if base_model.download_state not in UNDER_WAY:
        base_model.download_state = DownloadState.REQUESTED
        base_model.download_error = None
        base_model.downloaded_bytes = 0
        base_model.cancel_requested = False
    return base_model


def cancel_download(session: Session, name: str) -> BaseModel:
    """Stops a download: at once where it waits, at its next report where it runs.

    Raises:
        NotFoundError: There is no such base model.
        ConflictError: Nothing is being downloaded.
    """
    base_model = get_base_model(session, name)
    if base_model.download_state not in UNDER_WAY:
        raise ConflictError(f"{name} is not being downloaded, so there is nothing to cancel.")
    if base_model.download_state == DownloadState.REQUESTED:
        base_model.download_state = DownloadState.ABSENT
    else:
        base_model.cancel_requested = True
    return base_model


def next_download(session: Session) -> BaseModel | None:
    """Takes the download that waits longest, and marks it as running; None where none waits."""
    base_model = session.scalar(
        select(BaseModel).where(BaseModel.download_state == DownloadState.REQUESTED).order_by(BaseModel.created_at)
    )
    if base_model is not None:
        base_model.download_state = DownloadState.DOWNLOADING
        base_model.cancel_requested = False
    return base_model


def record_progress(session: Session, base_model_id: str, downloaded_bytes: int, total_bytes: int) -> bool:
    """Writes down how far a download is.

    Returns:
        Whether its user has asked to cancel it.
    """
    base_model = get_base_model_by_id(session, base_model_id)
    base_model.downloaded_bytes = downloaded_bytes
    base_model.total_bytes = total_bytes
    return base_model.cancel_requested


def finish_download(session: Session, base_model_id: str, record: BaseModelRecord) -> BaseModel:
    """Marks a base model as complete on this machine.

    Args:
        session: A writing session.
        base_model_id: The base model.
        record: What the files say; its state is taken as ready whatever it holds.
    """
    base_model = get_base_model_by_id(session, base_model_id)
    base_model.download_state = DownloadState.READY
    base_model.download_error = None
    base_model.downloaded_bytes = base_model.total_bytes
    base_model.cancel_requested = False
    return register(session, replace(record, name=base_model.name, download_state=DownloadState.READY))


def end_download(session: Session, base_model_id: str, *, error: str | None = None) -> BaseModel:
    """Ends a download without the model: cancelled, or failed where there is an `error` to show."""
    base_model = get_base_model_by_id(session, base_model_id)
    base_model.download_state = DownloadState.ABSENT if error is None else DownloadState.FAILED
    base_model.download_error = error
    base_model.cancel_requested = False
    return base_model


def restart_downloads(session: Session) -> int:
    """Puts downloads whose process is gone back in line, as the dispatcher starts; returns how many."""
    restarted: Any = session.execute(
        update(BaseModel)
        .where(BaseModel.download_state == DownloadState.DOWNLOADING)
        .values(download_state=DownloadState.REQUESTED)
    )
    return int(restarted.rowcount)
