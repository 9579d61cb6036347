"""Looks beneath Arrow's columns of text: the bytes of all cells one behind the other, and where each begins."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def offsets_of(column: pa.StringArray) -> npt.NDArray[np.int32]:
    """Where each text of a column begins among its bytes, and where the last one ends.

    Args:
        column: At least one cell, none of them null.
    """
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)
    return offsets[column.offset : column.offset + len(column) + 1]


def bytes_of(column: pa.StringArray) -> memoryview:
    """The bytes of all its texts."""
    offsets = offsets_of(column)
    data = column.buffers()[2]
    return memoryview(b"") if data is None else memoryview(data)[offsets[0] : offsets[-1]]
