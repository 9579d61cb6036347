"""Routes of prefixes: the library, download, import."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from app.api.attachment import attachment
from app.context import AppContext
from app.services import prefixes
from storage.disk import refusing_full_disk

router = APIRouter(prefix="/prefixes", tags=["Prefixes"])


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


class PrefixChange(BaseModel):
    """What is to be different about a prefix."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Another name, which is also its model id.")


@router.get("", summary="Every prefix, the newest first")
def listing(context: Context) -> list[dict[str, Any]]:
    """Without sample answers; see one prefix for these."""
    return prefixes.listing(context)


@router.post("", status_code=201, summary="Import a prefix")
def import_zip(
    context: Context,
    file: Annotated[UploadFile, File(description="The zip that a download gave, or a PEFT folder as a zip.")],
    base_model: Annotated[
        str | None, Form(description="Name of its base; needed where the zip does not carry the base's fingerprint.")
    ] = None,
) -> dict[str, Any]:
    """Refused where it belongs to another base; both fingerprints are named."""
    parent = context.settings.home / "tmp"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=parent, prefix="upload-") as folder:
        path = Path(folder) / "prefix.zip"
        with refusing_full_disk("storing the upload"), path.open("wb") as sink:
            shutil.copyfileobj(file.file, sink)
        return prefixes.import_zip(context, path, base_model or None)


@router.get("/{prefix_id}", summary="One prefix")
def describe(context: Context, prefix_id: str) -> dict[str, Any]:
    """Its recipe, rendering, lineage, scores and sample answers."""
    return prefixes.describe(context, prefix_id)


@router.patch("/{prefix_id}", summary="Rename it")
def rename(context: Context, prefix_id: str, change: PrefixChange) -> dict[str, Any]:
    """Clients that ask for it by the old name no longer find it."""
    return prefixes.rename(context, prefix_id, change.name)


@router.delete("/{prefix_id}", status_code=204, summary="Delete it")
def remove(context: Context, prefix_id: str) -> None:
    """A downloaded copy can be imported again."""
    prefixes.remove(context, prefix_id)


@router.get("/{prefix_id}/download", summary="Its zip: numbers, card, load snippet", response_class=FileResponse)
def download(
    context: Context,
    prefix_id: str,
    include_rows: Annotated[bool, Query(description="Put sample rows of the data into it.")] = False,
) -> FileResponse:
    """`peft.PeftModel.from_pretrained` loads the unpacked folder, unless `format_note` of the prefix says otherwise."""
    path = prefixes.export(context, prefix_id, include_rows=include_rows)
    return FileResponse(
        path,
        media_type="application/zip",
        headers=attachment(path.name),
        background=BackgroundTask(shutil.rmtree, path.parent, ignore_errors=True),
    )
