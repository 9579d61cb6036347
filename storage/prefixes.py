"""Trained prefixes as rows; their names are unique, since each is also a `model` id."""

from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from storage.base_models import find_base_model
from storage.errors import ConflictError, NotFoundError
from storage.names import check_name, numbered
from storage.schema.answering import Answering
from storage.schema.job import ACTIVE_STATUSES, Job
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.settings import OWNER


def create_prefix(session: Session, name: str, fields: dict[str, Any]) -> Prefix:
    """Adds a prefix whose file the artifact store holds already.

    Args:
        session: A writing session.
        name: Its name.
        fields: The other columns of `Prefix`.

    Raises:
        InvalidInputError: The name cannot be used.
        ConflictError: The name is taken.
    """
    prefix = Prefix(**{**fields, "name": _free(session, name)})
    session.add(prefix)
    session.flush()
    return prefix


def get_prefix(session: Session, prefix_id: str) -> Prefix:
    """The prefix of that id.

    Raises:
        NotFoundError: There is none.
    """
    prefix = session.scalar(select(Prefix).where(Prefix.id == prefix_id, Prefix.owner == OWNER))
    if prefix is None:
        raise NotFoundError(f"There is no prefix with the id {prefix_id!r}. It may have been deleted.")
    return prefix


def find_prefix(session: Session, name: str) -> Prefix | None:
    """The prefix of that name, or None."""
    return session.scalar(select(Prefix).where(Prefix.name == name, Prefix.owner == OWNER))


def list_prefixes(session: Session) -> list[Prefix]:
    """Every prefix, the newest first."""
    return list(
        session.scalars(select(Prefix).where(Prefix.owner == OWNER).order_by(Prefix.created_at.desc(), Prefix.id))
    )


def rename_prefix(session: Session, prefix_id: str, name: str) -> Prefix:
    """Gives a prefix another name.

    Raises:
        NotFoundError: There is no such prefix.
        InvalidInputError: The name cannot be used.
        ConflictError: The name is taken.
    """
    prefix = get_prefix(session, prefix_id)
    if name.strip() != prefix.name:
        prefix.name = _free(session, name)
        session.flush()
    return prefix


def delete_prefix(session: Session, prefix_id: str) -> None:
    """Deletes a prefix; its file goes in time, when no row names it. Snapshots of its training stay as long as its job.

    Raises:
        NotFoundError: There is no such prefix.
        ConflictError: A job that has not ended needs it.
    """
    prefix = get_prefix(session, prefix_id)
    answering = select(Answering.job_id).where(Answering.prefix_id == prefix_id)
    needs = or_(Job.prefix_id == prefix_id, Job.id.in_(answering))
    needing = session.scalar(select(Job.name).where(needs, Job.status.in_(ACTIVE_STATUSES)))
    if needing is not None:
        raise ConflictError(
            f"{prefix.name!r} is needed by the job {needing!r}. Wait until it has ended, or discard it."
        )
    session.execute(update(Job).where(Job.prefix_id == prefix_id).values(prefix_id=None))
    if session.scalar(select(Job.id).where(Job.id == prefix.job_id)) is None:
        session.execute(delete(Snapshot).where(Snapshot.job_id == prefix.job_id))
    session.delete(prefix)
    session.flush()


def free_name(session: Session, wish: str) -> str:
    """A name that nothing has: the wish itself, or the wish with the first number that is free behind it.

    Raises:
        InvalidInputError: The wish cannot be a name.
    """
    wish = check_name(wish)
    name, number = wish, 1
    while _taken_by(session, name):
        number += 1
        name = numbered(wish, number)
    return name


def _free(session: Session, name: str) -> str:
    name = check_name(name)
    taken_by = _taken_by(session, name)
    if taken_by:
        raise ConflictError(f"{name!r} is the name of a {taken_by} already. Choose another.")
    return name


def _taken_by(session: Session, name: str) -> str | None:
    if find_prefix(session, name) is not None:
        return "prefix"
    return "base model" if find_base_model(session, name) is not None else None
