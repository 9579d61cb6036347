"""Tables of the playground: comparisons that were kept, and blind votes."""

import enum

from sqlalchemy import Enum, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.base import Base, JsonDict, Owned


class Winner(enum.StrEnum):
    """How a blind vote went."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


class Comparison(Owned, Base):
    """One prompt with the answers of all columns, as they were shown.

    `columns` are those of `/v1/compare`: `model`, `context` and where it was set `strength`. `request` is the rest of
    what was asked, `result` holds `prompt` (as the models read it), `proof` and `answers`, one for each column.
    """

    __tablename__ = "comparisons"

    name: Mapped[str] = mapped_column(String(80))
    base_model: Mapped[str] = mapped_column(String(200))
    columns: Mapped[list[JsonDict]]
    request: Mapped[JsonDict]
    result: Mapped[JsonDict]


class Vote(Owned, Base):
    """One blind vote between two columns, each as the JSON text that stands for it; `first` sorts before `second`."""

    __tablename__ = "votes"
    __table_args__ = (Index("ix_votes_first_second", "first", "second"),)

    base_model: Mapped[str] = mapped_column(String(200))
    first: Mapped[str]
    second: Mapped[str]
    winner: Mapped[Winner] = mapped_column(Enum(Winner, native_enum=False, length=16))
    prompt: Mapped[str]
    answers: Mapped[list[str]]
