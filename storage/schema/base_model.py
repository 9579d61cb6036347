"""Table of the base models that the machine has, or is fetching."""

import enum

from sqlalchemy import Enum, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict, Owned


class BaseModelSource(enum.StrEnum):
    """Where a base model comes from."""

    STARTER = "starter"  # ships with the project
    LOCAL = "local"  # a folder beneath PREFIX_STUDIO_MODELS
    HUB = "hub"  # a Hugging Face repository, pinned to a commit


class DownloadState(enum.StrEnum):
    """How far a base model is from being on this machine."""

    ABSENT = "absent"  # known, not here
    REQUESTED = "requested"  # a user asked for it; the dispatcher starts the download
    DOWNLOADING = "downloading"  # a child process fetches it
    READY = "ready"  # complete on this machine
    FAILED = "failed"  # stopped with an error; may be asked for again


class BaseModel(Owned, Base):
    """A frozen language model that prefixes are trained for."""

    __tablename__ = "base_models"
    __table_args__ = (UniqueConstraint("owner", "name"),)

    name: Mapped[str] = mapped_column(String(200))
    source: Mapped[BaseModelSource] = mapped_column(Enum(BaseModelSource, native_enum=False, length=16))
    path: Mapped[str | None]
    revision: Mapped[str | None] = mapped_column(String(64))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    config: Mapped[JsonDict | None]
    details: Mapped[JsonDict] = mapped_column(default=dict)
    download_state: Mapped[DownloadState] = mapped_column(Enum(DownloadState, native_enum=False, length=16))
    download_error: Mapped[str | None]
    downloaded_bytes: Mapped[int] = mapped_column(default=0)
    total_bytes: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
