"""What all tables share: naming of constraints, ids, owners, times in UTC."""

import secrets
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, MetaData, String
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from storage.settings import OWNER

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

JsonDict = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always with its time zone; SQLite alone would hand it back without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turns a moment into UTC on its way in."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; expected one in UTC")
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Gives the time zone back on the way out."""
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Declarative base of every table."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        JsonDict: JSON(none_as_null=True),
        list[JsonDict]: JSON(),
        list[str]: JSON(),
    }


def new_id() -> str:
    """A fresh id: 16 hexadecimal digits, safe in a path and in a URL."""
    return secrets.token_hex(8)


def now() -> datetime:
    """This moment in UTC."""
    return datetime.now(UTC)


class Owned:
    """Columns of everything that belongs to a user."""

    id: Mapped[str] = mapped_column(String(16), primary_key=True, default=new_id)
    owner: Mapped[str] = mapped_column(String(80), default=OWNER, index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
