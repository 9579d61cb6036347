"""Routes of base models: listed, added from the hub, fetched, removed.

Their names hold slashes, so they stand in the query or the body and never in the path.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.api.attachment import attachment
from app.context import AppContext
from app.services import base_models
from app.services.folder_zip import base_model_zip

router = APIRouter(prefix="/base-models", tags=["Base models"])

MAX_NAME = 200


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]
Name = Annotated[str, Query(max_length=MAX_NAME, description="Name of a base model, as the list gives it.")]


class HubModelRequest(BaseModel):
    """A model of the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid")

    hub_id: str = Field(max_length=MAX_NAME, description="Its id, such as HuggingFaceTB/SmolLM2-135M.")


class BaseModelName(BaseModel):
    """A base model by its name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=MAX_NAME, description="Its name, as the list gives it.")


@router.get("", summary="Every base model, those on this machine first")
def listing(context: Context) -> list[dict[str, Any]]:
    """Whether each is supported, why not, whether a training fits into memory, and how far a download is."""
    return base_models.listing(context)


@router.post("", status_code=201, summary="Add a model of the hub")
def add(context: Context, order: HubModelRequest) -> dict[str, Any]:
    """Looked up and checked, pinned to its newest commit; nothing is fetched yet."""
    return base_models.add_hub_model(context, order.hub_id)


@router.post("/download", status_code=202, summary="Fetch a model of the hub")
def download(context: Context, order: BaseModelName) -> dict[str, Any]:
    """It comes in the background; the list shows how far it is."""
    return base_models.request_download(context, order.name)


@router.post("/cancel-download", status_code=202, summary="Stop a download")
def cancel_download(context: Context, order: BaseModelName) -> dict[str, Any]:
    """It ends within seconds."""
    return base_models.cancel_download(context, order.name)


@router.delete("", summary="Delete the files of a downloaded model")
def remove_files(context: Context, name: Name) -> dict[str, Any]:
    """Its entry stays. Refused while an unfinished job needs it."""
    return base_models.remove_files(context, name)


@router.get("/download-archive", summary="A built-in or local model as a zip", response_class=StreamingResponse)
def download_archive(context: Context, name: Name) -> StreamingResponse:
    """No hub has it, and whoever uses a prefix of it elsewhere needs it."""
    folder, chunks = base_model_zip(context, name)
    return StreamingResponse(chunks, media_type="application/zip", headers=attachment(f"{folder}.zip"))
