"""Routes of the prefixes that a training had at its evaluations."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.context import AppContext
from app.services import snapshots

router = APIRouter(tags=["Snapshots"])


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


@router.get("/prefixes/{prefix_id}/snapshots", summary="The states that a prefix went through in its training")
def of_prefix(context: Context, prefix_id: str) -> list[dict[str, Any]]:
    """Step, validation loss and the `model` by which each can be asked (`NAME@STEP`); none of an imported prefix."""
    return snapshots.of_prefix(context, prefix_id)


@router.get("/jobs/{job_id}/snapshots", summary="The states that a training has gone through so far")
def of_job(context: Context, job_id: str) -> list[dict[str, Any]]:
    """As for a prefix, with `job:JOB_ID@STEP` as `model`: they can be asked while the training goes on."""
    return snapshots.of_job(context, job_id)
