"""Routes that say how much is kept, and free what can be made again."""

from fastapi import APIRouter, Request

from app.services import usage

router = APIRouter(tags=["Keeping house"])


@router.get("/usage", summary="Bytes on disk by kind")
def read_usage(request: Request) -> dict[str, int]:
    """Datasets, prefixes, snapshots, answers, runs (checkpoints and logs), base models, cache, the database."""
    return usage.by_kind(request.app.state.context)


@router.delete("/usage/cache", summary="Clear the cache")
def clear_cache(request: Request) -> dict[str, int]:
    """Token ids of large tables go, and are made again when they are needed; answers with the bytes `freed`."""
    return {"freed": usage.clear_tokens(request.app.state.context)}
