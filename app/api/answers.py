"""Routes of tables that prefixes answer: sent, followed, downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response, StreamingResponse

from app.api.attachment import attachment
from app.api.received import json_object, kept_privately
from app.context import AppContext
from app.services import answers

router = APIRouter(prefix="/prefixes/{prefix_id}/answers", tags=["Answering tables"])

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/jsonl; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


@router.post("", status_code=201, summary="Answer every row of a table")
def submit(
    context: Context,
    prefix_id: str,
    file: Annotated[
        list[UploadFile],
        File(description="One table: CSV, TSV, JSON, JSONL, Parquet or XLSX, packed or not. It needs no answers."),
    ],
    settings: Annotated[
        str | None,
        Form(
            description="JSON, all of it optional: `mapping` (column of the prompt to column of the table), `options` "
            "(encoding, delimiter, header, sheet), `max_tokens`, `temperature`, `top_p`, `seed`, and `model`, which "
            "may name the base model so that it answers alone."
        ),
    ] = None,
) -> dict[str, Any]:
    """A job, which `/jobs` stops, pauses and resumes like any other. Its answers come as the table with one column
    more; rows that are too long for the model get an empty answer and a reason."""
    with kept_privately(context, file) as files:
        return answers.submit(context, prefix_id, files, json_object("settings", settings) or {})


@router.get("", summary="The tables that a prefix was given, the newest first")
def listing(context: Context, prefix_id: str) -> list[dict[str, Any]]:
    """Each as its job."""
    return answers.listing(context, prefix_id)


@router.get("/{job_id}", summary="One of them")
def describe(context: Context, prefix_id: str, job_id: str) -> dict[str, Any]:
    """Its job, with the rows that are done as `step`, and under `answers` what it works on."""
    return answers.describe(context, prefix_id, job_id)


@router.get("/{job_id}/download", summary="The table with its answers", response_class=StreamingResponse)
def download(
    context: Context,
    prefix_id: str,
    job_id: str,
    form: Annotated[
        str | None,
        Query(
            alias="format",
            description="csv, xlsx, parquet or jsonl. Left out, a workbook comes back as one where its answers fit "
            "into a sheet of Excel, and every other table as CSV.",
        ),
    ] = None,
    for_spreadsheets: Annotated[
        bool, Query(description="Keep cells of a CSV file from being taken for formulas, by an apostrophe in front.")
    ] = True,
) -> Response:
    """The same rows and columns in the same order, and the column `answer` behind them."""
    name, kind, content = answers.download(context, prefix_id, job_id, form, for_spreadsheets=for_spreadsheets)
    return _file(name, content, MEDIA_TYPES[kind])


def _file(name: str, content: Path | Iterator[bytes], media_type: str) -> Response:
    if isinstance(content, Path):
        return FileResponse(content, media_type=media_type, headers=attachment(name))
    return StreamingResponse(content, media_type=media_type, headers=attachment(name))
