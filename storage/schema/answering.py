"""Table of what an answering job works on: the uploaded table, and the answered one."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict


class Answering(Base):
    """The part of a job of the kind `answering` that a training does not have.

    `prefix_id` is kept when the prefix is deleted after the job has ended, so that the answers stay where they were.
    """

    __tablename__ = "answerings"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    prefix_id: Mapped[str] = mapped_column(String(16), index=True)
    prefix_name: Mapped[str] = mapped_column(String(80))
    uses_prefix: Mapped[bool]  # false: the base answers alone, asked in the prefix's rendering
    file_name: Mapped[str] = mapped_column(String(200))
    table_hash: Mapped[str] = mapped_column(String(64))  # SHA-256 of the uploaded table as Parquet
    columns: Mapped[list[str]]
    num_rows: Mapped[int]
    detected: Mapped[JsonDict]
    mapping: Mapped[JsonDict]  # column of the prefix's template to column of this table
    settings: Mapped[JsonDict]  # max_tokens (None: chosen when it runs), temperature, top_p and seed
    answer_column: Mapped[str] = mapped_column(String(200))
    result_hash: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of the answered table as Parquet
