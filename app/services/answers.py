"""Tables answered by prefixes, as REST and the page speak of them: read, queued, listed, downloaded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from app.context import AppContext
from app.services import dataset_files
from app.services.answer_wishes import matched, needed_columns, read_settings, refuse_missing, uses_prefix
from app.services.base_models import require_ready
from app.services.csv_rows import csv_chunks
from app.services.dataset_order import work_folder
from app.services.job_bodies import answers_body, is_workbook, job_body, sheet_of
from app.services.json_rows import json_lines
from app.services.xlsx_rows import unfit, xlsx_chunks
from storage import answerings as stored
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.jobs import get_job, queued_jobs
from storage.prefixes import get_prefix
from storage.quotes import quoted
from storage.rows import stored_path
from storage.schema.answering import Answering
from storage.schema.job import Job
from storage.schema.prefix import Prefix
from storage.tables.limits import Limits, ReadOptions
from storage.tables.parse import parse_upload
from storage.tables.table import StoredTable

Format = Literal["csv", "xlsx", "parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("csv", "xlsx", "parquet", "jsonl")

START_S = 10.0
"""Loading a base model, before the first row."""


def submit(
    context: AppContext, prefix_id: str, files: Sequence[tuple[str, Path]], wishes: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads a table and queues it to be answered.

    Args:
        context: The open stores.
        prefix_id: The prefix.
        files: Name and place of one file.
        wishes: Settings (see `answer_wishes`), and `model`, `mapping` (column of the template to column of the table)
            and `options` (encoding, delimiter, header, sheet, where the guess is wrong).

    Returns:
        The job, as `jobs.describe` gives it.

    Raises:
        StudioError: There is no such prefix, the file is no table, or it lacks a column.
    """
    prefix = _prefix(context, prefix_id)
    read_settings(wishes)
    uses_prefix(prefix, wishes.get("model"))
    table = _parsed(context, prefix, files, wishes)
    return _queued(context, prefix, table, files[0][0], wishes)


def read_table(context: AppContext, prefix_id: str, files: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """Reads a table and says what would become of it; nothing is queued, and what is not started is swept.

    Returns:
        `table` (for `start`), `file_name`, `num_rows`, `columns`, `description`, `notes`, `needed`, `mapping` (as far
        as columns were found), `estimate_s` (None where nothing is known).

    Raises:
        StudioError: There is no such prefix, or the file is no table.
    """
    prefix = _prefix(context, prefix_id)
    table = _parsed(context, None, files, {})
    notes = [note for file in table.detected.get("files") or [table.detected] for note in file.get("notes", [])]
    needed = needed_columns(prefix)
    return {
        "table": vars(table),
        "file_name": files[0][0],
        "num_rows": table.num_rows["train"],
        "columns": table.columns,
        "description": str(table.detected.get("description") or ""),
        "notes": list(dict.fromkeys(notes)),
        "needed": needed,
        "mapping": matched(needed, table.columns),
        "estimate_s": estimate_seconds(context, prefix, table.num_rows["train"]),
    }


def start(context: AppContext, prefix_id: str, draft: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """Queues a table that `read_table` has read.

    Raises:
        StudioError: The prefix or the table is gone, or a column is still missing.
    """
    table = StoredTable(**draft["table"])
    try:
        stored_path(context.store, table.blobs["train"])
    except NotFoundError as error:
        raise NotFoundError("The table was dropped too long ago. Drop the file again.") from error
    return _queued(context, _prefix(context, prefix_id), table, draft["file_name"], {"mapping": mapping})


def listing(context: AppContext, prefix_id: str) -> list[dict[str, Any]]:
    """The tables that a prefix was given, the newest first.

    Raises:
        NotFoundError: There is neither such a prefix nor a table that it was given.
    """
    with context.database.read() as session:
        found = stored.answerings_of_prefix(session, prefix_id)
        if not found:
            get_prefix(session, prefix_id)
        queue = [each.id for each in queued_jobs(session)]
    return [_body(job, answering, queue) for job, answering in found]


def describe(context: AppContext, prefix_id: str, job_id: str) -> dict[str, Any]:
    """One of them.

    Raises:
        NotFoundError: There is no such job of this prefix.
    """
    with context.database.read() as session:
        answering = stored.get_answering(session, job_id, prefix_id)
        job = get_job(session, job_id)
        queue = [each.id for each in queued_jobs(session)]
    return _body(job, answering, queue)


def download(
    context: AppContext, prefix_id: str, job_id: str, form: str | None = None, *, for_spreadsheets: bool = True
) -> tuple[str, Format, Path | Iterator[bytes]]:
    """The answered table: name of the file, its format, and what is in it.

    Args:
        context: The open stores.
        prefix_id: The prefix, which may have been deleted meanwhile.
        job_id: The job.
        form: One of `FORMATS`. Left out, a workbook comes back as one where it fits into a sheet, and all else as CSV.
        for_spreadsheets: Whether CSV cells that a spreadsheet would take for a formula get an apostrophe in front.

    Returns:
        With its bytes, or its place where it is a file already.

    Raises:
        NotFoundError: There is no such job of this prefix.
        ConflictError: It has no answers yet, or they do not fit into the workbook that is wished for.
        InvalidInputError: There is no such format.
    """
    if form is not None and form not in FORMATS:
        raise InvalidInputError(f"format is {quoted(form)}; expected {', '.join(FORMATS)}.")
    with context.database.read() as session:
        answering = stored.get_answering(session, job_id, prefix_id)
        path = stored_path(context.store, stored.require_result(answering))
        columns = get_job(session, job_id).metrics["columns"]
    kind = _form_of(form, answering, path, columns)
    stem = stored.shortened(answering.file_name).removesuffix(".gz").rsplit(".", 1)[0] or "table"
    contents: dict[Format, Callable[[], Path | Iterator[bytes]]] = {
        "parquet": lambda: path,
        "jsonl": lambda: json_lines(path, columns),
        "xlsx": lambda: xlsx_chunks(path, columns, sheet_of(answering)),
        "csv": lambda: csv_chunks(path, columns, for_spreadsheets=for_spreadsheets),
    }
    return f"{stem}-answered.{kind}", kind, contents[kind]()


def _form_of(wish: str | None, answering: Answering, path: Path, columns: Sequence[str]) -> Format:
    """The format that is wished for, or that of the upload.

    Raises:
        ConflictError: A workbook is wished for, and the table does not fit into its sheet.
    """
    kind: Format = next((form for form in FORMATS if form == wish), "xlsx" if is_workbook(answering) else "csv")
    reason = unfit(path, columns) if kind == "xlsx" else None
    if reason is None:
        return kind
    if wish is None:
        return "csv"
    raise ConflictError(f"The answered table cannot be a workbook: {reason}. Take it as csv, jsonl or parquet.")


def estimate_seconds(context: AppContext, prefix: Prefix, num_rows: int) -> float | None:
    """About how long a table takes: as earlier ones of this prefix did, or its own evaluation."""
    with context.database.read() as session:
        earlier = [job.metrics for job, _ in stored.answerings_of_prefix(session, prefix.id)]
    pace = next((float(each["rows_per_second"]) for each in earlier if each.get("rows_per_second")), None)
    if pace is None:
        evaluation = prefix.metrics.get("evaluation") or {}
        answered = (evaluation.get("num_rows") or 0) * len(evaluation.get("arms") or {})
        seconds = float(evaluation.get("seconds") or 0.0)
        pace = answered / seconds if answered and seconds else None
    return None if pace is None else START_S + num_rows / pace


def _queued(
    context: AppContext, prefix: Prefix, table: StoredTable, file_name: str, wishes: Mapping[str, Any]
) -> dict[str, Any]:
    mapping = matched(needed_columns(prefix), table.columns, wishes.get("mapping"))
    refuse_missing(prefix, table.columns, mapping)
    require_ready(context, prefix.base_model)
    with context.database.write() as session:
        job = stored.submit_answering(
            session,
            get_prefix(session, prefix.id),
            table,
            file_name=file_name,
            mapping=mapping,
            settings=read_settings(wishes),
            uses_prefix=uses_prefix(prefix, wishes.get("model")),
        )
    return describe(context, prefix.id, job.id)


def _parsed(
    context: AppContext, prefix: Prefix | None, files: Sequence[tuple[str, Path]], wishes: Mapping[str, Any]
) -> StoredTable:
    """The table of an upload; with a prefix given, one without its columns is refused before anything is kept."""
    if len(files) != 1:
        raise InvalidInputError(f"There are {len(files)} files; expected one table at a time.")
    folder = work_folder(context)
    dataset_files.sweep_uploads(folder)

    def accept(columns: list[str]) -> None:
        if prefix is not None:
            refuse_missing(prefix, columns, matched(needed_columns(prefix), columns, wishes.get("mapping")))

    table = parse_upload(
        files,
        context.store,
        folder=folder,
        limits=Limits(max_file_bytes=context.settings.max_upload_bytes, min_columns=1),
        options=ReadOptions.from_dict(dict(wishes.get("options") or {})),
        accept=accept,
        processes=context.readers,
    )
    if len(table.blobs) > 1:
        raise InvalidInputError(
            f"The file holds several tables ({', '.join(table.blobs)}). Send the one that is to be answered."
        )
    return table


def _prefix(context: AppContext, prefix_id: str) -> Prefix:
    with context.database.read() as session:
        return get_prefix(session, prefix_id)


def _body(job: Job, answering: Answering, queue: list[str]) -> dict[str, Any]:
    return {**job_body(job, queue), "answers": answers_body(answering)}
