"""What a safetensors file says of itself, read without loading it and checked against the file."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import InvalidInputError

MAX_HEADER_BYTES = 16_000_000
MAX_TENSORS = 200_000
SIZES: dict[int, tuple[str, ...]] = {
    64: ("F64", "I64", "U64"),
    32: ("F32", "I32", "U32"),
    16: ("F16", "BF16", "I16", "U16"),
    8: ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"),
}
BITS = {dtype: bits for bits, dtypes in SIZES.items() for dtype in dtypes}
"""Number format to bits per number."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in a file.

    Attributes:
        name: Its name in the model.
        dtype: Its number format, as safetensors spells it.
        shape: Its sides.
        path: The file that holds it.
        start: Its first byte in the file.
        num_bytes: Its size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    num_bytes: int

    @property
    def num_parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file.

    Args:
        path: The file, from whomever.

    Raises:
        InvalidInputError: The header is over its cap, cannot be read, or does not match the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _damaged(path, f"its header claims {length:,} bytes; expected at most {MAX_HEADER_BYTES:,}")
        header = _parse(path, file.read(length))
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise _damaged(path, f"it lists {len(entries):,} tensors; expected at most {MAX_TENSORS:,}")
    tensors = [_read_entry(path, name, entry, 8 + length, size) for name, entry in entries.items()]
    if sum(tensor.num_bytes for tensor in tensors) != size - 8 - length:
        raise _damaged(path, "its tensors do not fill the file, as if it were cut off")
    return tensors


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no readable JSON object")
    return header


def _read_entry(path: Path, name: str, entry: Any, data_start: int, size: int) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS or not _are_sizes(shape) or not _are_sizes(offsets):
        raise _damaged(path, f"the entry of tensor {name[:80]!r} cannot be read")
    num_bytes = math.prod(shape) * BITS[dtype] // 8
    if len(offsets) != 2 or offsets[1] - offsets[0] != num_bytes or data_start + offsets[1] > size:
        raise _damaged(path, f"tensor {name[:80]!r} lies outside the file or has another size than its shape says")
    return StoredTensor(name, dtype, tuple(shape), path, data_start + offsets[0], num_bytes)


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) <= 16 and all(type(side) is int and 0 <= side < 2**48 for side in value)
    )


def _damaged(path: Path, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{path.name} cannot be used: {reason}. Copy or download the model again.")
