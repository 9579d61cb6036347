"""Tables of the uploaded data: a dataset and its unchangeable versions."""

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from storage.schema.base import Base, JsonDict, Owned


class Dataset(Owned, Base):
    """A table that a user brought, under the name of its file."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(String(200))
    versions: Mapped[list["DatasetVersion"]] = relationship(
        back_populates="dataset", order_by="DatasetVersion.number", cascade="all, delete-orphan"
    )


class DatasetVersion(Owned, Base):
    """One state of a dataset: rows, mapping and split. It never changes once written.

    `blobs` names the Parquet file of each part by its SHA-256: `train` always, `validation` and `test` where the user
    brought them. Where there is no `validation`, it is drawn from `train` by the mapping's fraction and seed.

    `report` is what the doctor counted besides its findings: rows of each part, lengths, classes. `origin` says how the
    version came to be: `kind` (upload, mapping, repair, reading, restored), `of` (number of the version that it was
    made from), `done` (sentences).
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("dataset_id", "number"),)

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    content_hash: Mapped[str] = mapped_column(String(64))
    blobs: Mapped[JsonDict]
    columns: Mapped[list[str]]
    num_rows: Mapped[int]
    size_bytes: Mapped[int]
    mapping: Mapped[JsonDict]
    detected: Mapped[JsonDict]
    findings: Mapped[list[JsonDict]]
    report: Mapped[JsonDict] = mapped_column(default=dict, server_default="{}")
    origin: Mapped[JsonDict] = mapped_column(default=dict, server_default="{}")

    dataset: Mapped[Dataset] = relationship(back_populates="versions")
