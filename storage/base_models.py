"""Base models as rows: which there are, and how far their downloads are."""

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.errors import ConflictError, NotFoundError
from storage.schema.base_model import BaseModel, BaseModelSource, DownloadState
from storage.schema.job import ACTIVE_STATUSES, Job
from storage.schema.prefix import Prefix
from storage.settings import OWNER

UNDER_WAY = (DownloadState.REQUESTED, DownloadState.DOWNLOADING)


@dataclass(frozen=True)
class BaseModelRecord:
    """What is known of a base model; a field that is None is left as it was.

    Attributes:
        name: The name that a user picks, and the `model` id: a hub id, a folder's name, or that of the starter.
        source: Where it comes from.
        download_state: How far it is from being on this machine; not changed while a download is under way.
        path: Its folder.
        revision: Commit on the hub.
        fingerprint: SHA-256 over its weights.
        config: Its `config.json`.
        details: What the page shows beside it (license, number of parameters, whether it is gated).
        total_bytes: Size of its files.
    """

    name: str
    source: BaseModelSource
    download_state: DownloadState
    path: str | None = None
    revision: str | None = None
    fingerprint: str | None = None
    config: dict[str, Any] | None = None
    details: dict[str, Any] | None = None
    total_bytes: int | None = None


def register(session: Session, record: BaseModelRecord) -> BaseModel:
    """Adds a base model, or brings the row of that name up to date.

    Raises:
        ConflictError: A prefix has that name already, and both would be the same `model` id.
    """
    base_model = find_base_model(session, record.name)
    if base_model is None:
        _refuse_name_of_prefix(session, record.name)
        base_model = BaseModel(name=record.name)
        session.add(base_model)
    is_under_way = base_model.download_state in UNDER_WAY
    for field in fields(record):
        value = getattr(record, field.name)
        if value is not None and not (is_under_way and field.name == "download_state"):
            setattr(base_model, field.name, value)
    session.flush()
    return base_model


def find_base_model(session: Session, name: str) -> BaseModel | None:
    """The base model of that name, or None."""
    return session.scalar(select(BaseModel).where(BaseModel.name == name, BaseModel.owner == OWNER))


def get_base_model(session: Session, name: str) -> BaseModel:
    """The base model of that name.

    Raises:
        NotFoundError: There is none.
    """
    base_model = find_base_model(session, name)
    if base_model is None:
        raise NotFoundError(f"There is no base model {name!r}. Pick one from the list, or add it by its hub id.")
    return base_model


def get_base_model_by_id(session: Session, base_model_id: str) -> BaseModel:
    """The base model of that id.

    Raises:
        NotFoundError: There is none.
    """
    base_model = session.get(BaseModel, base_model_id)
    if base_model is None:
        raise NotFoundError(f"There is no base model with the id {base_model_id!r}. It may have been removed.")
    return base_model


def list_base_models(session: Session) -> list[BaseModel]:
    """Every base model, by name."""
    return list(session.scalars(select(BaseModel).where(BaseModel.owner == OWNER).order_by(BaseModel.name)))


def set_fingerprint(session: Session, base_model_id: str, fingerprint: str) -> None:
    """Writes down the fingerprint once it has been computed."""
    get_base_model_by_id(session, base_model_id).fingerprint = fingerprint


def mark_absent(session: Session, name: str) -> BaseModel:
    """Says that the files are gone, or are about to go, from this machine; the row stays.

    Raises:
        NotFoundError: There is no such base model.
        ConflictError: It is being downloaded, or a job that has not ended needs it.
    """
    base_model = get_base_model(session, name)
    if base_model.download_state in UNDER_WAY:
        raise ConflictError(f"{name} is being downloaded. Cancel the download, then remove its files.")
    _refuse_while_needed(session, base_model)
    base_model.download_state = DownloadState.ABSENT
    base_model.path = None
    base_model.downloaded_bytes = 0
    return base_model


def delete_base_model(session: Session, name: str) -> None:
    """Forgets a base model that nothing refers to.

    Raises:
        NotFoundError: There is no such base model.
        ConflictError: A job or a prefix refers to it.
    """
    base_model = get_base_model(session, name)
    _refuse_while_needed(session, base_model)
    prefix = session.scalar(select(Prefix.name).where(Prefix.base_model_id == base_model.id).limit(1))
    job = session.scalar(select(Job.name).where(Job.base_model_id == base_model.id).limit(1))
    if prefix is not None or job is not None:
        kind, needs = ("prefix", prefix) if prefix is not None else ("job", job)
        raise ConflictError(f"{name} is the base of the {kind} {needs!r}. Delete that first, or keep the entry.")
    session.delete(base_model)
    session.flush()


def _refuse_while_needed(session: Session, base_model: BaseModel) -> None:
    jobs = session.scalars(
        select(Job).where(Job.base_model_id == base_model.id, Job.status.in_(ACTIVE_STATUSES)).order_by(Job.created_at)
    ).all()
    if jobs:
        listed = ", ".join(f"{job.name!r} ({job.status})" for job in jobs)
        raise ConflictError(f"{base_model.name} is needed by {listed}. Wait until that has ended, or discard it.")


def _refuse_name_of_prefix(session: Session, name: str) -> None:
    if session.scalar(select(Prefix.id).where(Prefix.name == name, Prefix.owner == OWNER)) is not None:
        raise ConflictError(
            f"A prefix is called {name!r}, so a base model of that name would have the same model id. "
            "Rename the prefix, or the model's folder."
        )
