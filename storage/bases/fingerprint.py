"""The fingerprint of a base model: which weights a prefix was trained on, whatever files they lie in.

SHA-256 over the stored tensors sorted by name: for each a JSON line of name, number format and shape, then its bytes.
Sharding does not change it. A weight that is tied to another is stored once and counts once, so a copy that stores it
twice has another fingerprint though it computes the same.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from storage.bases.inspect import stored_tensors, weight_files

CHUNK_BYTES = 1 << 22
MAX_REMEMBERED = 500


def fingerprint(folder: Path, cache: Path | None = None) -> str:
    """The fingerprint of the model in `folder`.

    Args:
        folder: A base model's folder.
        cache: A JSON file that remembers results by path, size and time of the weight files.

    Returns:
        64 hexadecimal digits.

    Raises:
        InvalidInputError: The weights are missing or damaged.
    """
    signature = weights_signature(folder)
    remembered = _read_cache(cache)
    known = remembered.get(str(folder.resolve()))
    if isinstance(known, dict) and known.get("signature") == signature and isinstance(known.get("fingerprint"), str):
        return str(known["fingerprint"])
    found = _hash_tensors(folder)
    if cache is not None:
        remembered.pop(str(folder.resolve()), None)
        remembered[str(folder.resolve())] = {"signature": signature, "fingerprint": found}
        _write_cache(cache, dict(list(remembered.items())[-MAX_REMEMBERED:]))
    return found


def weights_signature(folder: Path) -> list[list[Any]]:
    """Name, size in bytes and time of change in ns of each weight file: cheap to read, new when one is replaced."""
    stats = [(path.name, path.stat()) for path in weight_files(folder)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _hash_tensors(folder: Path) -> str:
    digest = hashlib.sha256()
    for tensor in stored_tensors(folder):
        digest.update(json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode() + b"\n")
        with tensor.path.open("rb") as file:
            file.seek(tensor.start)
            left = tensor.num_bytes
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def _read_cache(cache: Path | None) -> dict[str, Any]:
    """What was remembered; a cache that cannot be read is as good as none."""
    if cache is None or not cache.is_file():
        return {}
    try:
        remembered = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _write_cache(cache: Path, remembered: dict[str, Any]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(remembered))
    temporary.replace(cache)
