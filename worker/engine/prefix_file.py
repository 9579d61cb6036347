"""A prefix on disk, as PEFT writes and reads it where it can; knows no torch, and trusts nothing that it reads.

The folder holds `adapter_config.json` and `adapter_model.safetensors` with one tensor, `prompt_embeddings`:
`[P, L * 2 * H_kv * D]` for prefix tuning (keys after rotary embedding at positions 0 to P-1), `[P, hidden]` for prompt
tuning. That of prefix tuning+, which PEFT does not know, has P rows more for what stands outside the softmax.
Source: peft 0.21 `PrefixEncoder` and `get_peft_model_state_dict`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from worker.engine.errors import InvalidPrefixFileError
from worker.engine.families import COLUMNS_PER_TOKEN, Geometry
from worker.engine.recipe import Method
from worker.engine.whole_file import write_whole

CONFIG_NAME = "adapter_config.json"
TENSORS_NAME = "adapter_model.safetensors"

TENSOR = "prompt_embeddings"
PEFT_TYPES: dict[Method, str] = {"prefix-tuning": "PREFIX_TUNING", "prompt-tuning": "PROMPT_TUNING"}

MAX_CONFIG_BYTES = 100_000
MAX_HEADER_BYTES = 1_000_000
MAX_TENSORS = 16
MAX_VIRTUAL_TOKENS = 4096
DTYPES: dict[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
"""Number formats that are read, with bytes per number."""


@dataclass(frozen=True)
class PrefixArray:
    """The numbers of one prefix.

    Attributes:
        method: What the numbers are.
        values: fp32; prefix tuning `[L, 2, H_kv, P, D]` (keys, then values), with plus `[L, 2, H_kv, 2 P, D]` (those
            outside the softmax come last), prompt tuning `[P, hidden]`.
        num_virtual_tokens: Its length P in tokens.
    """

    method: Method
    values: NDArray[np.float32]
    num_virtual_tokens: int

    @classmethod
    def of(cls, method: Method, values: NDArray[np.float32]) -> "PrefixArray":
        """Wraps numbers whose shape says their length."""
        if method == "prompt-tuning":
            return cls(method, values, int(values.shape[0]))
        return cls(method, values, int(values.shape[3]) // COLUMNS_PER_TOKEN[method])


def write_prefix_file(path: Path, prefix: PrefixArray) -> None:
    """Writes `adapter_model.safetensors`; it is whole before it stands under its name.

    Args:
        path: Where to.
        prefix: The numbers, written as fp32.
    """
    write_whole(path, prefix_bytes(prefix))


def prefix_bytes(prefix: PrefixArray, *, is_rounded: bool = False) -> bytes:
    """The tensor file of a prefix.

    Args:
        prefix: The numbers.
        is_rounded: Write them as fp16, in half the bytes, unless one of them is too large for it; otherwise as fp32.
    """
    table = np.ascontiguousarray(_to_table(prefix), dtype=np.float32)
    fits = is_rounded and np.abs(table).max(initial=0.0) <= np.finfo(np.float16).max
    data: bytes = save({TENSOR: table.astype(np.float16) if fits else table}, metadata={"format": "pt"})
    return data


def read_prefix_file(path: Path, method: Method, geometry: Geometry) -> PrefixArray:
    """Reads the tensor file of a prefix, checking everything before the numbers are used.

    Args:
        path: A safetensors file, from whomever.
        method: What it is said to hold.
        geometry: Measurements of the base model that it must fit.

    Raises:
        InvalidPrefixFileError: It is damaged, holds something else, or does not fit the base.
    """
    columns = COLUMNS_PER_TOKEN[method]
    width = geometry.prefix_parameters(method, 1) // columns
    size = path.stat().st_size
    if size > 8 + MAX_HEADER_BYTES + MAX_VIRTUAL_TOKENS * columns * width * 4:
        raise InvalidPrefixFileError(
            f"{TENSORS_NAME} has {size:,} bytes, more than a prefix of {MAX_VIRTUAL_TOKENS} tokens for this base. "
            "Import a file that PEFT or this app wrote."
        )
    with path.open("rb") as file:
        header, start = _read_header(file.read(8), file.read(min(size, MAX_HEADER_BYTES)), size)
        dtype, num_rows = _check_entry(header, width, method, size - start)
        file.seek(start)
        table = _decode(file.read(), dtype).reshape(num_rows, width)
    if not np.isfinite(table).all():
        raise InvalidPrefixFileError(f"{TENSORS_NAME} holds numbers that are not finite. Train or export it again.")
    return PrefixArray(method, _from_table(table, method, geometry), num_rows // columns)


def adapter_config(
    method: Method, num_virtual_tokens: int, geometry: Geometry, *, base_model: str, revision: str | None = None
) -> dict[str, Any]:
    """The `adapter_config.json` of a prefix, complete enough for `PeftModel.from_pretrained`.

    Args:
        method: What the prefix holds.
        num_virtual_tokens: Its length P in tokens.
        geometry: Measurements of the base.
        base_model: Hub id or folder of the base, as a user of PEFT would load it.
        revision: Commit of the base on the hub, where it has one.
    """
    is_prefix = method == "prefix-tuning"
    token_dim = geometry.num_kv_heads * geometry.head_dim if is_prefix else geometry.hidden_size
    config: dict[str, Any] = {
        "peft_type": PEFT_TYPES[method],
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": revision,
        "inference_mode": True,
        "num_virtual_tokens": num_virtual_tokens,
        "token_dim": token_dim,
        "num_attention_heads": geometry.num_kv_heads if is_prefix else geometry.num_heads,
        "num_layers": geometry.num_layers,
        "num_transformer_submodules": 1,
    }
    extra = {"prefix_projection": False, "encoder_hidden_size": token_dim} if is_prefix else {}
    return {**config, **extra}


def write_peft_folder(
    folder: Path, prefix: PrefixArray, geometry: Geometry, *, base_model: str, revision: str | None = None
) -> None:
    """Writes a folder that `PeftModel.from_pretrained` loads.

    Args:
        folder: Where to; made where it is missing.
        prefix: The numbers.
        geometry: Measurements of the base.
        base_model: Hub id or folder of the base.
        revision: Commit of the base on the hub, where it has one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_prefix_file(folder / TENSORS_NAME, prefix)
    config = adapter_config(
        prefix.method, prefix.num_virtual_tokens, geometry, base_model=base_model, revision=revision
    )
    write_whole(folder / CONFIG_NAME, json.dumps(config, indent=2).encode())


def read_peft_folder(folder: Path, geometry: Geometry) -> PrefixArray:
    """Reads a folder that PEFT or this app wrote.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        geometry: Measurements of the base model that it must fit.

    Raises:
        InvalidPrefixFileError: Something is missing, damaged, of another kind, or does not fit the base.
    """
    config = read_adapter_config(folder)
    if not (folder / TENSORS_NAME).is_file():
        raise InvalidPrefixFileError(
            f"{TENSORS_NAME} is missing. Only safetensors files are read, never pickles (.bin)."
        )
    method = next(name for name, kind in PEFT_TYPES.items() if kind == config["peft_type"])
    prefix = read_prefix_file(folder / TENSORS_NAME, method, geometry)
    if config["num_virtual_tokens"] != prefix.num_virtual_tokens:
        raise InvalidPrefixFileError(
            f"{CONFIG_NAME} says {config['num_virtual_tokens']} virtual tokens, but the tensor has "
            f"{prefix.num_virtual_tokens}. Export the prefix again."
        )
    return prefix


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Reads and checks `adapter_config.json`; `base_model_name_or_path` is only ever a text to show.

    Raises:
        InvalidPrefixFileError: It is missing, damaged, or of an adapter that is no prefix.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InvalidPrefixFileError(
            f"{CONFIG_NAME} is missing. Choose the zip of a prefix that PEFT or this app wrote."
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidPrefixFileError(
            f"{CONFIG_NAME} has {path.stat().st_size:,} bytes; expected under {MAX_CONFIG_BYTES:,}."
        )
    config = _parse_object(path.read_bytes(), CONFIG_NAME)
    kind, task = (str(config.get(key))[:40] for key in ("peft_type", "task_type"))
    if config.get("peft_type") not in PEFT_TYPES.values():
        raise InvalidPrefixFileError(
            f"This is an adapter of type {kind!r}; expected {' or '.join(PEFT_TYPES.values())}. "
            "Other adapters cannot be used here."
        )
    if config.get("task_type") == "SEQ_2_SEQ_LM":
        raise InvalidPrefixFileError(
            "PEFT's prefixes of encoder-decoders stand in front of the decoder alone, which is not read here. "
            "Train one here, or import the zip of one that this app wrote."
        )
    if config.get("task_type") != "CAUSAL_LM":
        raise InvalidPrefixFileError(
            f"task_type in {CONFIG_NAME} is {task!r}; expected 'CAUSAL_LM'. PEFT leaves a prefix of "
            "another task out of the model's attention, so it was not trained to write text."
        )
    tokens = config.get("num_virtual_tokens")
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 < tokens <= MAX_VIRTUAL_TOKENS:
        raise InvalidPrefixFileError(f"num_virtual_tokens is {str(tokens)[:20]!r}; expected 1 to {MAX_VIRTUAL_TOKENS}.")
    return config


def _to_table(prefix: PrefixArray) -> NDArray[np.float32]:
    if prefix.method == "prompt-tuning":
        return prefix.values
    return prefix.values.transpose(3, 0, 1, 2, 4).reshape(prefix.values.shape[3], -1)


def _from_table(table: NDArray[np.float32], method: Method, geometry: Geometry) -> NDArray[np.float32]:
    if method == "prompt-tuning":
        return table
    shape = (len(table), geometry.num_attentions, 2, geometry.num_kv_heads, geometry.head_dim)
    return np.ascontiguousarray(table.reshape(shape).transpose(1, 2, 3, 0, 4))


def _read_header(length_bytes: bytes, beginning: bytes, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(length_bytes, "little")
    if len(length_bytes) < 8 or length > MAX_HEADER_BYTES or length > size - 8:
        raise InvalidPrefixFileError(
            f"The header of {TENSORS_NAME} claims {length:,} bytes; expected at most {MAX_HEADER_BYTES:,} and no more "
            "than the file has. The file is damaged or no prefix."
        )
    return _parse_object(beginning[:length], f"the header of {TENSORS_NAME}"), 8 + length


def _parse_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidPrefixFileError(f"In this prefix {name} is no readable JSON object. Download or export it again.")
    return parsed


def _check_entry(header: dict[str, Any], width: int, method: Method, data_bytes: int) -> tuple[str, int]:
    """Dtype and number of tokens of the one tensor, after every claim of the header was held against the file."""
    names = [name for name in header if name != "__metadata__"]
    if names != [TENSOR]:
        listed = ", ".join(repr(name[:40]) for name in names[:3]) or "nothing"
        many = f"{len(names):,} tensors (more than {MAX_TENSORS})" if len(names) > MAX_TENSORS else listed
        raise InvalidPrefixFileError(f"{TENSORS_NAME} holds {many}; expected {TENSOR!r} alone.")
    entry = header[TENSOR] if isinstance(header[TENSOR], dict) else {}
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidPrefixFileError(
            f"{TENSOR!r} has the number format {str(dtype)[:20]!r}; expected {', '.join(DTYPES)}."
        )
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise InvalidPrefixFileError(f"{TENSOR!r} has the shape {str(shape)[:60]}; expected [tokens, {width}].")
    columns = COLUMNS_PER_TOKEN[method]
    if shape[1] != width or shape[0] > MAX_VIRTUAL_TOKENS * columns or shape[0] % columns:
        counts = f"1 to {MAX_VIRTUAL_TOKENS}" if columns == 1 else f"2 to {MAX_VIRTUAL_TOKENS * columns}, even"
        raise InvalidPrefixFileError(
            f"{TENSOR!r} has the shape {shape}; a {method} prefix of this base has [{counts}, {width}]. "
            "Choose the base model that it was trained on."
        )
    expected = math.prod(shape) * DTYPES[dtype]
    if entry.get("data_offsets") != [0, expected] or data_bytes != expected:
        raise InvalidPrefixFileError(
            f"{TENSORS_NAME} has {data_bytes:,} bytes of numbers; expected {expected:,}. It is cut off or damaged."
        )
    return dtype, shape[0]


def _decode(data: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # numpy has no bf16: its 16 bits are the upper half of an fp32
        widened = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return widened.view(np.float32)
    return np.frombuffer(data, "<f4" if dtype == "F32" else "<f2").astype(np.float32)
