"""Datasets and their versions, as rows of the database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.errors import ConflictError, NotFoundError
from storage.names import check_name
from storage.quotes import quoted
from storage.schema.dataset import Dataset, DatasetVersion
from storage.schema.job import ACTIVE_STATUSES, Job
from storage.settings import OWNER
from storage.tables.table import StoredTable

MAX_FILE_NAME_CHARACTERS = 200

Mapping = dict[str, Any]
Findings = Sequence[dict[str, Any]]
Report = dict[str, Any]


def create_dataset(
    session: Session,
    name: str,
    table: StoredTable,
    mapping: Mapping,
    findings: Findings,
    report: Report | None = None,
) -> tuple[Dataset, DatasetVersion]:
    """Adds a dataset with its first version.

    Args:
        session: A writing session.
        name: Name of the dataset, as a rule that of its file.
        table: The rows, which the artifact store holds already.
        mapping: Template, target, instruction, split and rendering.
        findings: What was noticed about the rows.
        report: What was counted besides.

    Raises:
        InvalidInputError: The name cannot be used.
    """
    dataset = Dataset(name=check_name(name, limit=MAX_FILE_NAME_CHARACTERS))
    session.add(dataset)
    session.flush()
    version = DatasetVersion(
        dataset_id=dataset.id,
        number=1,
        mapping=dict(mapping),
        findings=list(findings),
        report=dict(report or {}),
        origin={"kind": "upload", "done": []},
        **_columns_of(table),
    )
    session.add(version)
    session.flush()
    return dataset, version


def add_version(
    session: Session,
    dataset_id: str,
    *,
    mapping: Mapping | None = None,
    table: StoredTable | None = None,
    findings: Findings | None = None,
    report: Report | None = None,
    origin: Mapping | None = None,
) -> tuple[Dataset, DatasetVersion]:
    """Adds a version that differs from the latest in what is given; earlier versions stay as they are.

    Args:
        session: A writing session.
        dataset_id: The dataset.
        mapping: Another mapping.
        table: Other rows.
        findings: What was noticed about them.
        report: What was counted besides.
        origin: How the version came to be: `kind`, `of`, `done`.

    Raises:
        NotFoundError: There is no such dataset.
    """
    dataset, latest = get_dataset(session, dataset_id)
    kept = {name: getattr(latest, name) for name in VERSIONED_COLUMNS}
    version = DatasetVersion(
        dataset_id=dataset.id,
        number=latest.number + 1,
        mapping=dict(latest.mapping if mapping is None else mapping),
        findings=list(latest.findings if findings is None else findings),
        report=dict(latest.report if report is None and mapping is None and table is None else report or {}),
        origin={"kind": "mapping", "of": latest.number, "done": [], **(origin or {})},
        **(kept if table is None else _columns_of(table)),
    )
    session.add(version)
    session.flush()
    return dataset, version


def get_dataset(session: Session, dataset_id: str) -> tuple[Dataset, DatasetVersion]:
    """A dataset with its latest version.

    Raises:
        NotFoundError: There is no such dataset.
    """
    found = session.execute(_with_latest_version().where(Dataset.id == dataset_id)).one_or_none()
    if found is None:
        raise NotFoundError(f"There is no dataset with the id {quoted(dataset_id)}. It may have been deleted.")
    return found[0], found[1]


def get_version(session: Session, version_id: str) -> DatasetVersion:
    """One version of a dataset.

    Raises:
        NotFoundError: There is no such version.
    """
    version = session.scalar(
        select(DatasetVersion).where(DatasetVersion.id == version_id, DatasetVersion.owner == OWNER)
    )
    if version is None:
        raise NotFoundError(
            f"There is no version of a dataset with the id {quoted(version_id)}. It may have been deleted."
        )
    return version


def list_versions(session: Session, dataset_id: str) -> list[DatasetVersion]:
    """Every version of a dataset, the newest first.

    Raises:
        NotFoundError: There is no such dataset.
    """
    dataset, _ = get_dataset(session, dataset_id)
    chosen = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)
    return list(session.scalars(chosen.order_by(DatasetVersion.number.desc())))


def restore_version(session: Session, dataset_id: str, number: int) -> tuple[Dataset, DatasetVersion]:
    """Goes back to an earlier version by adding an equal one; none is lost on the way.

    Raises:
        NotFoundError: There is no such dataset, or it has no such version.
    """
    versions = list_versions(session, dataset_id)
    earlier = next((version for version in versions if version.number == number), None)
    if earlier is None:
        raise NotFoundError(f"There is no version {number} of this dataset; it has 1 to {versions[0].number}.")
    dataset, latest = get_dataset(session, dataset_id)
    if latest is earlier:
        return dataset, latest
    copied = {name: getattr(earlier, name) for name in (*VERSIONED_COLUMNS, "mapping", "findings", "report")}
    origin = {"kind": "restored", "of": number, "done": [f"Went back to version {number}."]}
    version = DatasetVersion(dataset_id=dataset.id, number=latest.number + 1, origin=origin, **copied)
    session.add(version)
    session.flush()
    return dataset, version


def list_datasets(session: Session) -> list[tuple[Dataset, DatasetVersion]]:
    """Every dataset with its latest version, the newest first."""
    rows = session.execute(_with_latest_version().order_by(Dataset.created_at.desc(), Dataset.id))
    return [(dataset, version) for dataset, version in rows]


def rename_dataset(session: Session, dataset_id: str, name: str) -> Dataset:
    """Gives a dataset another name.

    Raises:
        NotFoundError: There is no such dataset.
        InvalidInputError: The name cannot be used.
    """
    dataset, _ = get_dataset(session, dataset_id)
    dataset.name = check_name(name, limit=MAX_FILE_NAME_CHARACTERS)
    return dataset


def delete_dataset(session: Session, dataset_id: str) -> None:
    """Deletes a dataset with all its versions; its files go with the next sweep of blobs that no row names.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: A job that has not ended needs it.
    """
    dataset, _ = get_dataset(session, dataset_id)
    jobs = session.scalars(
        select(Job)
        .join(DatasetVersion, DatasetVersion.id == Job.dataset_version_id)
        .where(DatasetVersion.dataset_id == dataset_id, Job.status.in_(ACTIVE_STATUSES))
        .order_by(Job.created_at)
    ).all()
    if jobs:
        listed = ", ".join(f"{quoted(job.name)} ({job.status})" for job in jobs)
        raise ConflictError(
            f"{quoted(dataset.name)} is needed by {listed}. Wait until that has ended, or discard it, then delete this."
        )
    session.delete(dataset)
    session.flush()


VERSIONED_COLUMNS = ("content_hash", "blobs", "columns", "num_rows", "size_bytes", "detected")
"""What a version takes from its table."""


def _columns_of(table: StoredTable) -> dict[str, Any]:
    return {
        "content_hash": table.content_hash,
        "blobs": dict(table.blobs),
        "columns": list(table.columns),
        "num_rows": sum(table.num_rows.values()),
        "size_bytes": table.size_bytes,
        "detected": dict(table.detected),
    }


def _with_latest_version() -> Any:
    latest = (
        select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == Dataset.id).correlate(Dataset)
    ).scalar_subquery()
    return (
        select(Dataset, DatasetVersion)
        .join(DatasetVersion, (DatasetVersion.dataset_id == Dataset.id) & (DatasetVersion.number == latest))
        .where(Dataset.owner == OWNER)
    )
