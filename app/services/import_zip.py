"""Puts a prefix from a zip into the library, once its numbers and its base are checked."""

import tempfile
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.archive import RECORD_NAME
from app.services.base_models import require_ready
from app.services.foreign_record import ForeignRecord, read_record
from app.services.methods import OWN_TENSORS_NAME, is_own_format, title_of
from app.services.prefix_body import prefix_body
from app.services.unpack import unpack
from storage.base_models import list_base_models
from storage.bases.catalog import ensure_fingerprint, sync_catalog
from storage.disk import refusing_full_disk
from storage.errors import ConflictError, InvalidInputError, WrongBaseError
from storage.names import check_name
from storage.prefixes import create_prefix, free_name
from storage.schema.base_model import BaseModel, DownloadState
from worker.engine.families import Geometry, geometry
from worker.engine.prefix_file import (
    CONFIG_NAME,
    PrefixArray,
    read_adapter_config,
    read_peft_folder,
    read_prefix_file,
    write_prefix_file,
)

DEFAULT_NAME = "Imported prefix"


def import_zip(context: AppContext, path: Path, base_model: str | None = None) -> dict[str, Any]:
    """Imports a prefix that this app or PEFT wrote.

    Args:
        context: The open stores.
        path: The zip; it is only read.
        base_model: Name of its base; needed where the zip carries no fingerprint.

    Returns:
        The new prefix.

    Raises:
        InvalidInputError: The zip is not that of a prefix, or says too little about its base.
        InvalidPrefixFileError: Its numbers are refused, or do not fit the base.
        WrongBaseError: It belongs to another base; both fingerprints are named.
        ConflictError: Its base is not on this machine.
        TooLargeError: It unpacks to more than a prefix can have.
    """
    parent = context.settings.home / "tmp"
    with refusing_full_disk("importing a prefix"):
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=parent, prefix="import-") as name:
            folder = Path(name)
            unpack(path, folder)
            record = read_record(folder)
            base = _base_of(context, folder, record, base_model)
            array = _read_numbers(folder, record, geometry(base.config or {}))
            # Written anew, so that what is kept has one form whoever made it.
            write_prefix_file(folder / "kept", array)
            size_bytes = (folder / "kept").stat().st_size
            artifact_hash = context.store.put_file(folder / "kept")
    with context.database.write() as session:
        fields = _fields(record, base, array, size_bytes, artifact_hash)
        prefix = create_prefix(session, free_name(session, _wish(record.name)), fields)
        return prefix_body(prefix)


def _base_of(context: AppContext, folder: Path, record: ForeignRecord, named: str | None) -> BaseModel:
    if named is not None:
        base = require_ready(context, named)
        if record.base_fingerprint is not None and base.fingerprint != record.base_fingerprint:
            raise _wrong_base(record, base)
        return base
    if record.base_fingerprint is None:
        config = {} if _is_own_format(folder) else read_adapter_config(folder)
        said = str(config.get("base_model_name_or_path") or record.base_model)[:100]
        hint = f" It was made for {said!r}." if said else ""
        raise InvalidInputError(
            f"This prefix was made by another tool and does not say which weights it belongs to.{hint} "
            "Name its base model, and import it again."
        )
    return _find_base(context, record)


def _find_base(context: AppContext, record: ForeignRecord) -> BaseModel:
    """The base with the prefix's fingerprint, whatever it is called here."""
    sync_catalog(context.database, context.settings)
    with context.database.read() as session:
        rows = list_base_models(session)
    ready = [row for row in rows if row.download_state is DownloadState.READY and row.path is not None]
    same_name = [row for row in ready if row.name == record.base_model]
    for row in [*same_name, *(row for row in ready if row not in same_name)]:
        if ensure_fingerprint(context.database, context.settings, row) == record.base_fingerprint:
            return require_ready(context, row.name)
    if same_name:
        raise _wrong_base(record, same_name[0])
    raise ConflictError(
        f"This prefix belongs to the base model {record.base_model!r} with the fingerprint "
        f"{(record.base_fingerprint or '')[:16]}, which is not on this machine. Fetch that model first."
    )


def _wrong_base(record: ForeignRecord, base: BaseModel) -> WrongBaseError:
    return WrongBaseError(
        f"This prefix was trained on {record.base_model!r} with the fingerprint {record.base_fingerprint}; "
        f"{base.name!r} here has {base.fingerprint}. Get the weights that it was trained on, and import it again."
    )


def _read_numbers(folder: Path, record: ForeignRecord, measured: Geometry) -> PrefixArray:
    read = _read_own_folder if _is_own_format(folder) else _read_peft_folder
    array = read(folder, record, measured)
    if array.num_virtual_tokens > measured.context_length // 2:
        raise InvalidInputError(
            f"This prefix has {array.num_virtual_tokens:,} tokens, more than half of the base's context of "
            f"{measured.context_length:,}. Import a shorter one, or name a base with a longer context."
        )
    return array


def _is_own_format(folder: Path) -> bool:
    return (folder / OWN_TENSORS_NAME).is_file() and not (folder / CONFIG_NAME).is_file()


def _read_own_folder(folder: Path, record: ForeignRecord, measured: Geometry) -> PrefixArray:
    """Numbers in our own format, which are what our record says: their shape alone would leave that open."""
    if record.method is None:
        raise InvalidInputError(
            f"{RECORD_NAME} in this zip does not say by which method the prefix was trained. Download the prefix again."
        )
    if measured.has_encoder and record.method != "prefix-tuning":
        raise InvalidInputError(
            f"This prefix was made with {title_of(record.method)} for a model that only decodes, and its base here has "
            "an encoder. Name the base that it was trained on."
        )
    if not is_own_format(record.method, has_encoder=measured.has_encoder):
        raise InvalidInputError(
            "This prefix was made for a model with encoder and decoder, and its base here only decodes. Name the base "
            "that it was trained on."
        )
    return read_prefix_file(folder / OWN_TENSORS_NAME, record.method, measured)


def _read_peft_folder(folder: Path, record: ForeignRecord, measured: Geometry) -> PrefixArray:
    """Numbers in PEFT's format, whoever wrote them."""
    if measured.has_encoder:
        raise InvalidInputError(
            f"The zip has no {OWN_TENSORS_NAME}, and its base here has an encoder: this prefix was made for a "
            "model that only decodes. Name the base that it was trained on."
        )
    config = read_adapter_config(folder)
    is_prefix = config["peft_type"] == "PREFIX_TUNING"
    expected = {
        "num_layers": measured.num_layers,
        "token_dim": measured.num_kv_heads * measured.head_dim if is_prefix else measured.hidden_size,
    }
    for name, value in expected.items():
        # The shape of the tensor is a product: other layers and heads can come to the same number.
        if isinstance(config.get(name), int) and config[name] != value:
            raise InvalidInputError(
                f"{name} of this prefix is {config[name]}; its base model here has {value}. Name the base that it was "
                "trained on."
            )
    array = read_peft_folder(folder, measured)
    if record.method not in (None, array.method):
        raise InvalidInputError(
            f"{CONFIG_NAME} in this zip says {array.method}, but {RECORD_NAME} says {record.method}. Download the "
            "prefix again."
        )
    return array


def _fields(
    record: ForeignRecord, base: BaseModel, array: PrefixArray, size_bytes: int, artifact_hash: str
) -> dict[str, Any]:
    return {
        "base_model_id": base.id,
        "base_model": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "method": array.method,
        "num_virtual_tokens": array.num_virtual_tokens,
        "num_parameters": int(array.values.size),
        "size_bytes": size_bytes,
        "rendering": record.rendering.to_dict(),
        "recipe": record.recipe,
        "metrics": record.metrics,
        "samples": record.samples,
        "artifact_hash": artifact_hash,
        "imported": True,
    }


def _wish(name: str) -> str:
    try:
        return check_name(name)
    except InvalidInputError:
        return DEFAULT_NAME
