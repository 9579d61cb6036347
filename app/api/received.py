"""What a multipart request brings: files, kept privately while they are read, and fields that hold JSON."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from app.context import AppContext
from app.services.dataset_order import work_folder
from storage.disk import refusing_full_disk
from storage.errors import InvalidInputError, TooLargeError
from storage.quotes import quoted

CHUNK_BYTES = 1 << 20


def json_object(name: str, text: str | None) -> dict[str, Any] | None:
    """The object that a field holds as JSON; None where it is left out or empty.

    Raises:
        InvalidInputError: It holds something else.
    """
    if text is None or not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"The field {quoted(name)} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"The field {quoted(name)} is {quoted(text[:60])}; expected a JSON object.")
    return value


@contextmanager
def kept_privately(context: AppContext, uploads: Sequence[UploadFile]) -> Iterator[list[tuple[str, Path]]]:
    """Copies what was sent to a private folder, no more than the cap; the folder goes when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="sent-", dir=work_folder(context)))
    try:
        left_bytes = context.settings.max_upload_bytes
        files = []
        for number, upload in enumerate(uploads):
            path = folder / str(number)
            with refusing_full_disk("receiving the upload"), path.open("wb") as target:
                while chunk := upload.file.read(CHUNK_BYTES):
                    left_bytes -= len(chunk)
                    if left_bytes < 0:
                        raise _too_large(context.settings.max_upload_bytes)
                    target.write(chunk)
            files.append((upload.filename or f"file {number + 1}", path))
        yield files
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _too_large(cap: int) -> TooLargeError:
    return TooLargeError(
        f"The upload is larger than {cap / 1e6:,.0f} MB, which is the most that is taken. "
        "Upload fewer rows, or the same table as Parquet."
    )
