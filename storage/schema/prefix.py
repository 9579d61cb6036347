"""Table of the trained prefixes."""

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict, Owned


class Prefix(Owned, Base):
    """A trained prefix; its name also serves as `model` in the OpenAI-compatible interface."""

    __tablename__ = "prefixes"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    name: Mapped[str] = mapped_column(String(80))
    job_id: Mapped[str | None] = mapped_column(String(16), unique=True)
    dataset_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="SET NULL"), index=True
    )
    base_model_id: Mapped[str] = mapped_column(ForeignKey("base_models.id", ondelete="RESTRICT"), index=True)
    base_model: Mapped[str] = mapped_column(String(200))
    base_revision: Mapped[str | None] = mapped_column(String(64))
    base_fingerprint: Mapped[str] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(40))
    num_virtual_tokens: Mapped[int]
    num_parameters: Mapped[int]
    size_bytes: Mapped[int]
    rendering: Mapped[JsonDict]
    recipe: Mapped[JsonDict]
    metrics: Mapped[JsonDict]
    samples: Mapped[list[JsonDict]]
    artifact_hash: Mapped[str] = mapped_column(String(64))
    format_version: Mapped[int] = mapped_column(default=1)
    imported: Mapped[bool] = mapped_column(default=False)
