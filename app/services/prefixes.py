"""Prefixes as REST and the page speak of them: listed, renamed, exported, imported, deleted."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.archive import Export, write_archive
from app.services.dataset_body import data_source
from app.services.import_zip import import_zip
from app.services.methods import format_note
from app.services.prefix_body import prefix_body
from app.services.snippet import snippet_of
from storage import prefixes as stored
from storage.base_models import get_base_model_by_id
from storage.datasets import get_version
from storage.disk import refusing_full_disk
from storage.errors import ConflictError, NotFoundError
from storage.schema.base_model import BaseModel
from storage.schema.prefix import Prefix
from worker.engine.families import geometry

__all__ = ["describe", "export", "import_zip", "listing", "load_snippet", "remove", "rename"]

UNSAFE = re.compile(r"[^\w.\-]+")


def listing(context: AppContext) -> list[dict[str, Any]]:
    """Every prefix, the newest first, without samples."""
    with context.database.read() as session:
        return [prefix_body(prefix) for prefix in stored.list_prefixes(session)]


def describe(context: AppContext, prefix_id: str) -> dict[str, Any]:
    """One prefix in full: its recipe, rendering, lineage, scores and sample answers.

    Returns:
        `format_note` says of a download that PEFT cannot load how it is used; None of all others.

    Raises:
        NotFoundError: There is no such prefix.
    """
    with context.database.read() as session:
        prefix = stored.get_prefix(session, prefix_id)
        base_model = get_base_model_by_id(session, prefix.base_model_id)
        named = data_source(get_version(session, prefix.dataset_version_id) if prefix.dataset_version_id else None)
    has_encoder = bool(base_model.config) and geometry(base_model.config or {}).has_encoder
    return {
        **prefix_body(prefix, with_rows=True),
        "format_note": format_note(prefix.method, has_encoder=has_encoder),
        "base_source": base_model.source.value,
        "base_state": base_model.download_state.value,
        **named,
        "recipe": prefix.recipe,
        "rendering": prefix.rendering,
        "samples": prefix.samples,
    }


def rename(context: AppContext, prefix_id: str, name: str) -> dict[str, Any]:
    """Gives a prefix another name, which is also its `model` id.

    Raises:
        NotFoundError: There is no such prefix.
        InvalidInputError: The name cannot be used.
        ConflictError: The name is taken.
    """
    with context.database.write() as session:
        stored.rename_prefix(session, prefix_id, name)
    return describe(context, prefix_id)


def remove(context: AppContext, prefix_id: str) -> None:
    """Deletes a prefix.

    Raises:
        NotFoundError: There is no such prefix.
        ConflictError: A job that has not ended needs it.
    """
    with context.database.write() as session:
        stored.delete_prefix(session, prefix_id)


def export(context: AppContext, prefix_id: str, *, include_rows: bool = False) -> Path:
    """Writes the zip of a prefix.

    Args:
        context: The open stores.
        prefix_id: The prefix.
        include_rows: Whether sample rows of the user's data go along.

    Returns:
        The zip, alone in a folder of its own that the caller deletes.

    Raises:
        NotFoundError: There is no such prefix, or its file is gone.
        ConflictError: Its base model is no longer known well enough.
        DiskFullError: There is no room for it.
    """
    prefix, base_model = _with_base(context, prefix_id)
    if not context.store.exists(prefix.artifact_hash):
        raise NotFoundError(f"The file of the prefix {prefix.name!r} is gone from this machine. Import it again.")
    parts = Export(
        prefix=prefix,
        source=base_model.source,
        geometry=geometry(_config_of(prefix, base_model)),
        tensors=context.store.path(prefix.artifact_hash),
        include_rows=include_rows,
    )
    parent = context.settings.home / "tmp"
    with refusing_full_disk("writing the download"):
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix="export-"))
        try:
            target = folder / f"{file_stem(prefix.name)}.zip"
            write_archive(target, parts)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return target


def load_snippet(context: AppContext, prefix_id: str) -> str:
    """The lines of Python that load a prefix elsewhere.

    Raises:
        NotFoundError: There is no such prefix.
        ConflictError: Its base model is no longer known well enough.
    """
    prefix, base_model = _with_base(context, prefix_id)
    return snippet_of(prefix, base_model.source, geometry(_config_of(prefix, base_model)))


def file_stem(name: str) -> str:
    """A file's name that every system takes, from any name."""
    return UNSAFE.sub("-", name).strip("-.")[:80] or "prefix"


def _config_of(prefix: Prefix, base_model: BaseModel) -> dict[str, Any]:
    if not base_model.config:
        raise ConflictError(
            f"The folder of the base model {prefix.base_model!r} is gone. Put it back, then export again."
        )
    return base_model.config


def _with_base(context: AppContext, prefix_id: str) -> tuple[Prefix, BaseModel]:
    with context.database.read() as session:
        prefix = stored.get_prefix(session, prefix_id)
        return prefix, get_base_model_by_id(session, prefix.base_model_id)
