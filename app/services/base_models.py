"""Base models as REST and the page speak of them: listed, added, fetched, removed."""

import shutil
from pathlib import Path
from typing import Any

from app.context import AppContext
from storage import base_models as stored
from storage import downloads
from storage.base_models import BaseModelRecord
from storage.bases import hub
from storage.bases.catalog import ensure_fingerprint, sync_catalog
from storage.bases.hub import HubRepository
from storage.errors import ConflictError, InvalidInputError
from storage.schema.base_model import BaseModel, BaseModelSource, DownloadState
from worker.engine.errors import UnsupportedModelError
from worker.engine.families import Geometry, check_family, geometry
from worker.engine.memory import Workload, available_memory, estimate_training_bytes, fit


def listing(context: AppContext) -> list[dict[str, Any]]:
    """Every base model, those on this machine first, brought up to date with its disk."""
    sync_catalog(context.database, context.settings)
    available = available_memory()
    with context.database.read() as session:
        rows = stored.list_base_models(session)
    bodies = [_body(row, available) for row in rows]
    places = {"starter": 0, "local": 1, "hub": 2}
    return sorted(
        bodies, key=lambda body: (body["download_state"] != "ready", places[body["source"]], body["name"].lower())
    )


def describe(context: AppContext, name: str) -> dict[str, Any]:
    """One base model.

    Raises:
        NotFoundError: There is none of that name.
    """
    with context.database.read() as session:
        row = stored.get_base_model(session, name)
    return _body(row, available_memory())


def check_hub_id(hub_id: str) -> str:
    """The hub id that a user typed.

    Raises:
        InvalidInputError: It is a path, an address, names a revision, or is no id at all.
    """
    return hub.check_hub_id(hub_id)


def add_hub_model(context: AppContext, hub_id: str) -> dict[str, Any]:
    """Looks a model up on the hub and puts it into the list, pinned to its newest commit.

    Raises:
        InvalidInputError: The id is none, or the model cannot be used here.
        UnsupportedModelError: Its family cannot take a prefix.
        NotFoundError: The hub has no such model.
        GatedModelError: Consent to its licence is missing.
        HubUnreachableError: The hub does not answer.
    """
    found = hub.look_up(check_hub_id(hub_id))
    check_family(found.config)
    geometry(found.config)
    with context.database.write() as session:
        row = stored.find_base_model(session, found.hub_id)
        if row is not None and row.source is not BaseModelSource.HUB:
            raise ConflictError(f"A model on this machine is called {found.hub_id!r} already. Rename its folder first.")
        if row is None or row.download_state in (DownloadState.ABSENT, DownloadState.FAILED):
            row = stored.register(session, _hub_record(found))
            row.fingerprint = None  # another commit may hold other weights
    return describe(context, found.hub_id)


def request_download(context: AppContext, name: str) -> dict[str, Any]:
    """Asks for the files of a model of the hub; the dispatcher fetches them.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is on this machine already.
        UnsupportedModelError: Its family cannot take a prefix.
    """
    with context.database.write() as session:
        row = stored.get_base_model(session, name)
        if row.source is not BaseModelSource.HUB:
            raise ConflictError(f"{name} is no model of the hub; put its folder back where it was.")
        check_family(row.config or {})
        downloads.request_download(session, name)
    return describe(context, name)


def cancel_download(context: AppContext, name: str) -> dict[str, Any]:
    """Stops a download.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is not being downloaded.
    """
    with context.database.write() as session:
        downloads.cancel_download(session, name)
    return describe(context, name)


def remove_files(context: AppContext, name: str) -> dict[str, Any]:
    """Deletes the downloaded files of a model; its entry stays, and it can be fetched again.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: An unfinished job needs it, it is being downloaded, or it did not come from the hub.
    """
    with context.database.write() as session:
        row = stored.get_base_model(session, name)
        if row.source is not BaseModelSource.HUB:
            raise ConflictError(
                f"{name} was not downloaded by this app, so its files are left alone. Delete its folder."
            )
        path = row.path
        stored.mark_absent(session, name)
    root = (context.settings.home / "models").resolve()
    if path is not None and Path(path).resolve().parent == root:
        shutil.rmtree(path, ignore_errors=True)
    return describe(context, name)


def require_ready(context: AppContext, name: str) -> BaseModel:
    """A base model that can be trained on: on this machine, whole, of a family that works; its fingerprint is set.

    Raises:
        NotFoundError: There is no such model.
        ConflictError: It is not on this machine yet.
        InvalidInputError: Its files cannot be used.
        UnsupportedModelError: Its family cannot take a prefix.
    """
    sync_catalog(context.database, context.settings)
    with context.database.read() as session:
        row = stored.get_base_model(session, name)
    reason = row.details.get("reason")
    if reason:
        raise InvalidInputError(f"{name} cannot be used: {reason}")
    check_family(row.config or {})
    if row.download_state is not DownloadState.READY or row.path is None:
        raise ConflictError(f"{name} is not on this machine yet. Download it first.")
    ensure_fingerprint(context.database, context.settings, row)
    return row


def _hub_record(found: HubRepository) -> BaseModelRecord:
    weights = sum(file.size for file in found.files if file.name.endswith(".safetensors"))
    width = {"float32": 4, "float64": 8}.get(str(found.config.get("dtype") or found.config.get("torch_dtype")), 2)
    details = {
        "num_parameters": weights // width,
        "size_bytes": weights,
        "license": found.license,
        "gated": found.is_gated,
    }
    return BaseModelRecord(
        name=found.hub_id,
        source=BaseModelSource.HUB,
        download_state=DownloadState.ABSENT,
        revision=found.revision,
        config=found.config,
        details=details,
        total_bytes=found.total_bytes,
    )


def _body(row: BaseModel, available_bytes: int) -> dict[str, Any]:
    measured, reason = _measure(row)
    details = row.details
    num_parameters = details.get("num_parameters")
    badge = None
    if measured is not None and num_parameters:
        badge = fit(estimate_training_bytes(measured, num_parameters, Workload()), available_bytes)
    return {
        "name": row.name,
        "source": row.source.value,
        "supported": reason is None,
        "reason": reason,
        "fit": badge,
        "num_parameters": num_parameters,
        "context_length": measured.context_length if measured else None,
        "model_type": (row.config or {}).get("model_type"),
        "license": details.get("license"),
        "size_bytes": details.get("size_bytes") or row.total_bytes or None,
        "has_chat_template": bool(details.get("has_chat_template")),
        "gated": bool(details.get("gated")),
        "revision": row.revision,
        "fingerprint": row.fingerprint,
        "download_state": row.download_state.value,
        "download_error": row.download_error,
        "cancel_requested": row.cancel_requested,
        "downloaded_bytes": row.downloaded_bytes,
        "total_bytes": row.total_bytes,
    }


def _measure(row: BaseModel) -> tuple[Geometry | None, str | None]:
    """Measurements of a model, or the reason why it cannot be used."""
    if row.details.get("reason"):
        return None, str(row.details["reason"])
    try:
        check_family(row.config or {})
        return geometry(row.config or {}), None
    except UnsupportedModelError as error:
        return None, error.message
