"""Route that says how much is kept."""

from fastapi import APIRouter, Request

from app.services import usage

router = APIRouter(tags=["Keeping house"])


@router.get("/usage", summary="Bytes on disk by kind")
def read_usage(request: Request) -> dict[str, int]:
    """Datasets, prefixes, runs (checkpoints and logs), base models, the database."""
    return usage.by_kind(request.app.state.context)
