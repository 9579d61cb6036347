"""Reading beside an ordinary upload: a look at the first rows before all are read, and datasets of the hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.dataset_body import described
from app.services.dataset_order import examined, guessed, work_folder
from storage import datasets as stored
from storage.hub_datasets.fetch import fetched_dataset
from storage.settings import MAX_UPLOAD_BYTES
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import parse_upload, preview_upload

MAX_PREVIEW_CHARACTERS = 2000


def preview(
    context: AppContext, files: Sequence[tuple[str, Path]], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The first rows of files, before all of them are read: the same fraction of a second whatever their size.

    Args:
        context: The open stores.
        files: Name and place of each, as for an upload.
        options: What is known of how they are written.

    Returns:
        `columns`, `rows` (by column) and `detected`, as far as the beginning of the files tells.

    Raises:
        StudioError: Not even the first rows can be read.
    """
    found = preview_upload(
        files,
        folder=work_folder(context),
        limits=Limits(max_file_bytes=context.settings.max_upload_bytes),
        options=ReadOptions.from_dict(dict(options or {})),
        processes=context.readers,
    )
    columns = found["columns"]
    rows = [
        dict(zip(columns, (cell[:MAX_PREVIEW_CHARACTERS] for cell in cells), strict=True)) for cells in found["rows"]
    ]
    return {**found, "rows": rows}


def add_hub_dataset(
    context: AppContext,
    hub_id: str,
    *,
    subset: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """Fetches a dataset of the Hugging Face Hub and reads it as if its files had been uploaded.

    Args:
        context: The open stores.
        hub_id: Owner and name, as on the hub.
        subset: One of its subsets; needed where it has several.
        on_progress: Told the bytes so far and in all now and then; what it raises ends the download.
        endpoint: Address of the hub; huggingface_hub's own by default.

    Returns:
        What `datasets.describe` returns; `detected` names the commit.

    Raises:
        StudioError: It cannot be had or read, or this machine has no network; nothing of it is left then.
    """
    folder = work_folder(context)
    cap = min(context.settings.max_upload_bytes, MAX_UPLOAD_BYTES)
    with fetched_dataset(
        hub_id, folder, subset=subset, max_bytes=cap, endpoint=endpoint, on_progress=on_progress
    ) as found:
        files = [(path.name, path) for paths in found.parts.values() for path in paths]
        places = iter(range(len(files)))
        parts = {part: [next(places) for _ in paths] for part, paths in found.parts.items()}
        table = parse_upload(files, context.store, folder=folder, limits=Limits(max_file_bytes=cap), parts=parts)
    source = {"hub_id": found.hub_id, "revision": found.revision, "subset": found.subset}
    description = f"{table.detected['description']} from the Hugging Face Hub at commit {found.revision[:12]}"
    table = replace(table, detected={**table.detected, "hub": source, "description": description})
    mapping = guessed(context, table.blobs["train"], table.columns)
    findings, report = examined(context, table.blobs, table.columns, mapping)
    name = f"{found.hub_id} {found.subset}".strip()
    with context.database.write() as session:
        dataset, version = stored.create_dataset(session, name, table, mapping, findings, report)
    return described(context, dataset, version)
