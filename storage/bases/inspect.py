"""Reads what a base model's folder holds and refuses what must not be loaded; needs no torch and runs no code of it."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from storage.bases.safetensors_header import StoredTensor, read_tensors
from storage.errors import InvalidInputError

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_NAME = "tokenizer.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"

MAX_CONFIG_BYTES = 1_000_000
MAX_INDEX_BYTES = 50_000_000
MAX_SHARDS = 1000
README_BYTES = 100_000

SHARD_NAME = re.compile(r"[\w.\-]{1,120}\.safetensors", re.ASCII)
LICENSE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w.\-+ ]{1,60}?)[\"']?[ \t]*$", re.MULTILINE)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class BaseFolder:
    """What a base model's folder holds.

    Attributes:
        config: The content of config.json.
        tensors: Every stored tensor. A tied weight is stored once, and counts once.
        has_chat_template: Whether its tokenizer renders conversations.
        license: The licence that its README names, where there is one.
    """

    config: dict[str, Any]
    tensors: list[StoredTensor]
    has_chat_template: bool
    license: str | None

    @property
    def details(self) -> dict[str, Any]:
        """The facts as the database keeps them."""
        dtypes = Counter[str]()
        for tensor in self.tensors:
            dtypes[tensor.dtype] += tensor.num_parameters
        return {
            "num_parameters": sum(dtypes.values()),
            "dtype": dtypes.most_common(1)[0][0],
            "size_bytes": sum(tensor.num_bytes for tensor in self.tensors),
            "has_chat_template": self.has_chat_template,
            "license": self.license,
        }


def inspect_folder(folder: Path, root: Path) -> BaseFolder:
    """Reads a base model's folder.

    Args:
        folder: The folder of the model.
        root: The folder that it must lie in, links followed.

    Raises:
        InvalidInputError: It is incomplete, damaged, reaches out of `root`, or would run code when it is loaded.
    """
    check_contained(folder, root)
    config = read_config(folder)
    if not (folder / TOKENIZER_NAME).is_file():
        raise InvalidInputError(
            f"{TOKENIZER_NAME} is missing in this model's folder. Save the tokenizer beside the model with "
            "transformers' AutoTokenizer and save_pretrained."
        )
    tensors = stored_tensors(folder)
    if not tensors:
        raise InvalidInputError(f"{WEIGHTS_NAME} holds no tensors. Copy or download the model again.")
    return BaseFolder(config, tensors, _has_chat_template(folder), read_license(folder / "README.md"))


def check_contained(folder: Path, root: Path) -> None:
    """Refuses a folder, or a file in it, that a link leads out of `root`.

    Raises:
        InvalidInputError: Naming what leads out.
    """
    resolved_root = root.resolve()
    if not folder.is_dir():
        raise InvalidInputError(f"{folder.name!r} is not a folder. Give each local model a folder of its own.")
    for path in (folder, *folder.rglob("*")):
        if not path.resolve().is_relative_to(resolved_root):
            raise InvalidInputError(
                f"{path.name!r} is a link that leads out of the folder of models. Copy the model into it instead."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json and refuses settings that would load something else than this folder's weights.

    Raises:
        InvalidInputError: It is missing, damaged, or asks for code or for other files.
    """
    config = _read_object(folder / CONFIG_NAME, MAX_CONFIG_BYTES)
    if config is None:
        raise InvalidInputError(
            f"{CONFIG_NAME} is missing in this model's folder. Put a whole model there, as save_pretrained writes it."
        )
    if config.get("auto_map"):
        raise InvalidInputError(
            "This model brings its own program code (auto_map in config.json), which is never run here. "
            "Choose a model of a family that transformers knows by itself."
        )
    if (folder / "adapter_config.json").exists():
        raise InvalidInputError(
            "This folder holds an adapter (adapter_config.json), not a base model. Choose the model that it was "
            "made for."
        )
    if config.get("transformers_weights"):
        raise InvalidInputError("config.json sets transformers_weights, which is not followed here. Remove that line.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, whole or in shards.

    Raises:
        InvalidInputError: There is none, or one that the index names is missing.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = _read_object(folder / INDEX_NAME, MAX_INDEX_BYTES)
    if index is None:
        raise _without_weights(folder)
    weight_map = index.get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not 0 < len(names) <= MAX_SHARDS:
        raise InvalidInputError(
            f"{INDEX_NAME} names {len(names)} files; expected 1 to {MAX_SHARDS}. Copy the model again."
        )
    for name in names:
        if not SHARD_NAME.fullmatch(name):
            raise InvalidInputError(f"{INDEX_NAME} names {name[:80]!r}; expected safetensors files of the same folder.")
        if not (folder / name).is_file():
            raise InvalidInputError(f"{name} is missing, though {INDEX_NAME} names it. Copy the model again.")
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Every tensor of a model, sorted by name, from whichever shard.

    Raises:
        InvalidInputError: A file is damaged, or a name comes twice.
    """
    tensors = sorted(
        (tensor for path in weight_files(folder) for tensor in read_tensors(path)), key=lambda each: each.name
    )
    for first, second in pairwise(tensors):
        if first.name == second.name:
            raise InvalidInputError(f"Tensor {first.name[:80]!r} is stored twice. Save the model again.")
    return tensors


def read_license(readme: Path) -> str | None:
    """The licence in the front matter of a model card; None where there is none."""
    if not readme.is_file():
        return None
    with readme.open("rb") as file:
        text = file.read(README_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return None
    found = LICENSE_LINE.search(text[: text.find("\n---", 3)])
    return found[1] if found else None


def _without_weights(folder: Path) -> InvalidInputError:
    if any(True for pattern in PICKLES for _ in folder.glob(pattern)):
        return InvalidInputError(
            "The weights of this model are pickle files, which can run code when they are loaded; expected "
            "safetensors. Choose a revision with safetensors, or save the model again with save_pretrained."
        )
    return InvalidInputError(f"{WEIGHTS_NAME} is missing in this model's folder. Copy or download the whole model.")


def _has_chat_template(folder: Path) -> bool:
    if (folder / CHAT_TEMPLATE_NAME).is_file():
        return True
    config = _read_object(folder / "tokenizer_config.json", MAX_CONFIG_BYTES)
    return bool(config and config.get("chat_template"))


def _read_object(path: Path, limit: int) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file."""
    if not path.is_file():
        return None
    if path.stat().st_size > limit:
        raise InvalidInputError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {limit:,}.")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path.name} is no readable JSON object. Copy or download the model again.")
    return value
