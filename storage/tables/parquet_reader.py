"""Reads Parquet, its cells as the text that JSON would have for them."""

import datetime
import decimal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InvalidInputError, TooLargeError
from storage.quotes import quoted
from storage.tables.readers import Cells, check_columns
from storage.tables.records import MAX_FIELDS, Scalar, flatten, places
from storage.tables.sources import SourceFile

BATCH_ROWS = 256
THRIFT_BYTES = 64_000_000


class ParquetReader:
    """A table in Parquet; structs become dotted columns.

    Args:
        source: The file.
    """

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.detected: dict[str, Any] = {"format": "parquet"}

    def columns(self) -> list[str]:
        """Names of its columns."""
        with self._opened() as file:
            schema = file.schema_arrow
        names = [name for field in schema for name in self._names(field, "", 0)]
        check_columns(names, self.source)
        return names

    def rows(self, columns: Sequence[str]) -> Iterator[Cells]:
        """Its rows in the order of `columns`, a few hundred of them in memory at a time."""
        place = places(columns)
        allowed = self.source.limits.unpacked_bytes(self.source.path.stat().st_size)
        row = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for record in _printable(batch).to_pylist():
                    row += 1
                    cells = flatten({name: _plain(value) for name, value in record.items()}, place, row)
                    # Counted in text: a dictionary or runs of equal values take hardly any room in Arrow.
                    allowed -= sum(map(len, cells))
                    if allowed < 0:
                        raise TooLargeError(
                            f"{self.source.name} unpacks to far more than a table of its size would. "
                            "Upload it as CSV, or in smaller pieces."
                        )
                    yield cells

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(
                self.source.path,
                memory_map=False,
                pre_buffer=False,
                buffer_size=1 << 20,
                page_checksum_verification=True,
                thrift_string_size_limit=THRIFT_BYTES,
                thrift_container_size_limit=1_000_000,
            ) as file:
                yield file
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{self.source.name} has texts that are not UTF-8, which Parquet demands. Write the file again."
            ) from error
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")[:160]
            raise InvalidInputError(
                f"{self.source.name} is a damaged or cut-off Parquet file ({reason}). Write or upload it again."
            ) from error

    def _names(self, field: pa.Field, prefix: str, depth: int) -> Iterator[str]:
        name = prefix + field.name
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            raise InvalidInputError(
                f"The column {quoted(name)} of {self.source.name} holds binary data; expected text. Leave it out."
            )
        if pa.types.is_struct(kind) and 0 < kind.num_fields <= MAX_FIELDS and depth < self.source.limits.max_depth:
            for inner in kind:
                yield from self._names(inner, f"{name}.", depth + 1)
        else:
            yield name


def _printable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with numbers as they were written, and times that Python can hold; finer ones would need pandas."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_float32(field.type):
            # Widened as it is, 0.1 would become 0.10000000149011612.
            column = batch.column(place).cast(pa.string()).cast(pa.float64())
            batch = batch.set_column(place, field.name, column)
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = batch.column(place).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(place, field.name, column)
    return batch


def _plain(value: Any) -> Any:
    """A value as JSON would have it; numbers keep their digits."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (int, float, decimal.Decimal)):
        return Scalar(value)
    return str(value)
