"""Routes that say which roles are up."""

from typing import Any

from fastapi import APIRouter, Request

from app.services.health import roles

router = APIRouter(tags=["Health"])
root_router = APIRouter(include_in_schema=False)


@router.get("/healthz", summary="The roles and their state")
@root_router.get("/healthz")
def healthz(request: Request) -> dict[str, Any]:
    """`status` is `ok` once every role is ready, `degraded` until then; the web role itself answers either way."""
    found = roles(request.app.state.context.settings)
    is_ok = all(role["state"] == "ready" for role in found.values())
    return {"status": "ok" if is_ok else "degraded", "roles": found}
