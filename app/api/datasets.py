"""Routes of datasets: upload, look at, change, delete."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.api.attachment import attachment
from app.api.received import json_object, kept_privately
from app.context import AppContext
from app.services import dataset_files, dataset_repairs, datasets, lengths, reading

router = APIRouter(prefix="/datasets", tags=["Datasets"])

CHUNK_BYTES = 1 << 20


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


Context = Annotated[AppContext, Depends(_context)]


class HubDataset(BaseModel):
    """A dataset of the Hugging Face Hub."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Owner and name, as on the hub.", max_length=200)
    subset: str | None = Field(None, description="One of its subsets, where it has several.", max_length=200)


class DatasetChange(BaseModel):
    """What is to be different about a dataset."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, description="Another name.")
    repairs: list[str | dict[str, Any]] | Literal["safe"] | None = Field(
        None,
        description="Repairs that findings offer, by kind, such as drop_empty_targets; or 'safe' for all that lose "
        "nothing. They make a new version.",
    )
    options: dict[str, Any] | None = Field(
        None, description="Encoding, delimiter, header or sheet, to read the uploaded file anew within the hour."
    )
    version: int | None = Field(None, description="Number of an earlier version to go back to.")
    mapping: dict[str, Any] | None = Field(
        None,
        description="Fields of the mapping that change: template, target, instruction, validation_fraction, seed, "
        "rendering. The dataset gets a new version.",
    )


class RepairsWish(BaseModel):
    """Repairs to try."""

    model_config = ConfigDict(extra="forbid")

    repairs: list[str | dict[str, Any]] | Literal["safe"] = Field(
        description="Repairs that findings offer, by kind; or 'safe' for all that lose nothing."
    )
    mapping: dict[str, Any] | None = Field(None, description="Fields of the mapping that change with them.")


@router.post("", status_code=201, summary="Upload a table")
def upload(
    context: Context,
    file: Annotated[
        list[UploadFile],
        File(
            description="CSV, TSV, JSON, JSONL, Parquet or XLSX, packed or not; several files are train, validation "
            "and test by name."
        ),
    ],
    mapping: Annotated[str | None, Form(description="JSON: fields of the mapping that need no guess.")] = None,
    options: Annotated[
        str | None, Form(description="JSON: encoding, delimiter, header, sheet or format, if guessed wrong.")
    ] = None,
    name: Annotated[str | None, Form(description="Name of the dataset; that of the file by default.")] = None,
) -> dict[str, Any]:
    """Reads it, guesses the prompt and the answer, and says what is odd about its rows."""
    known, reading = json_object("mapping", mapping), json_object("options", options)
    with kept_privately(context, file) as files:
        return datasets.upload(context, files, known, name=name, options=reading)


@router.post("/hub", status_code=201, summary="Fetch a dataset of the Hugging Face Hub")
def fetch(context: Context, wanted: HubDataset) -> dict[str, Any]:
    """Its Parquet files at the newest commit, read like an upload; answers once all of it is here."""
    return reading.add_hub_dataset(context, wanted.id, subset=wanted.subset)


@router.get("", summary="Every dataset, the newest first")
def listing(context: Context) -> list[dict[str, Any]]:
    """Without rows; see one dataset for these."""
    return datasets.listing(context)


@router.get("/{dataset_id}", summary="One dataset")
def describe(context: Context, dataset_id: str) -> dict[str, Any]:
    """Its columns, mapping, findings, rendered samples and first rows."""
    return datasets.describe(context, dataset_id)


@router.patch("/{dataset_id}", summary="Change the mapping or the name, repair rows, or go back")
def change(context: Context, dataset_id: str, changes: DatasetChange) -> dict[str, Any]:
    """All but the name makes a new version; jobs keep the one that they were given."""
    return datasets.change(context, dataset_id, changes.model_dump(exclude_none=True))


@router.post("/{dataset_id}/repairs/preview", summary="What repairs would change")
def preview_repairs(context: Context, dataset_id: str, wish: RepairsWish) -> dict[str, Any]:
    """Counts, and the first rows before and after; nothing is stored."""
    return dataset_repairs.preview_repairs(context, dataset_id, wish.repairs, wish.mapping)


@router.get("/{dataset_id}/versions", summary="Every version, the newest first")
def versions(context: Context, dataset_id: str) -> list[dict[str, Any]]:
    """With what was done to get it."""
    return datasets.versions(context, dataset_id)


@router.get("/{dataset_id}/lengths", summary="Lengths of the rows in tokens of a base model")
def row_lengths(context: Context, dataset_id: str, base_model: str, num_virtual_tokens: int = 0) -> dict[str, Any]:
    """Histograms, and a finding about the rows that do not fit into its context beside a prefix of that length."""
    measured = lengths.measure(context, dataset_id, base_model)
    told = {name: measured[name] for name in ("unit", "prompt", "target", "total", "sampled", "num_rows", "is_whole")}
    return {
        **told,
        "context_length": measured["context_length"],
        "findings": lengths.too_long(measured, num_virtual_tokens),
    }


@router.get("/{dataset_id}/download", summary="The rows of a version as CSV", response_class=StreamingResponse)
def download(
    context: Context, dataset_id: str, version: int | None = None, part: str = "train", for_spreadsheets: bool = False
) -> StreamingResponse:
    """The same columns, cells as they are; `for_spreadsheets` keeps cells from being taken for formulas."""
    name, chunks = dataset_files.csv_file(context, dataset_id, version, part, for_spreadsheets=for_spreadsheets)
    return StreamingResponse(chunks, media_type="text/csv; charset=utf-8", headers=attachment(name))


@router.delete("/{dataset_id}", summary="Delete a dataset")
def remove(context: Context, dataset_id: str) -> dict[str, Any]:
    """With all its versions. Refused while an unfinished job needs it."""
    return datasets.remove(context, dataset_id)
