"""Route of the held-out rows that the playground has answered, as a file."""

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from app.api.attachment import attachment
from app.services import many_rows_file

router = APIRouter(prefix="/held-out-rows", tags=["Comparisons"])


@router.get("/{key}", summary="Held-out rows with the answers of all columns, as CSV", response_class=FileResponse)
def download(request: Request, key: str) -> FileResponse:
    """Kept for an hour; the playground gives the key."""
    path = many_rows_file.find(request.app.state.context, key)
    return FileResponse(path, media_type="text/csv; charset=utf-8", headers=attachment(path.name))
