"""Fetches a base model from the hub: `python -m storage.bases.download ID`, a child of the dispatcher.

The commit is pinned first. Progress goes into the model's row, which also says when its user cancels. Dropped
connections are picked up where they broke; weights are held against the SHA-256 that the hub names.
"""

import hashlib
import logging
import os
import shutil
import sys
import time
from pathlib import Path

from storage.base_models import BaseModelRecord, get_base_model_by_id
from storage.bases.catalog import fingerprint_cache
from storage.bases.fingerprint import fingerprint
from storage.bases.hub import HubFile, HubRepository, HubUnreachableError, look_up, told_in_sentences
from storage.bases.inspect import inspect_folder
from storage.bases.meter import DownloadCancelled, Meter, progress_bar
from storage.database import Database, open_database
from storage.disk import refusing_full_disk
from storage.downloads import end_download, finish_download, record_progress
from storage.errors import InvalidInputError, StudioError
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings, read_settings

logger = logging.getLogger(__name__)

TRIES = 4
SPARE_BYTES = 500_000_000
"""Room that a download leaves on the disk."""

CHUNK_BYTES = 1 << 22
REPORTED_BYTES = 1 << 20


def download(database: Database, settings: Settings, base_model_id: str, *, endpoint: str | None = None) -> None:
    """Fetches a base model and says in its row how that ended.

    Args:
        database: The open database.
        settings: `home` is where models go.
        base_model_id: The row.
        endpoint: Address of the hub; huggingface_hub's own by default.
    """
    try:
        record = _fetch(database, settings, base_model_id, endpoint)
    except DownloadCancelled:
        with database.write() as session:
            end_download(session, base_model_id)
    except StudioError as error:
        logger.warning("download failed: %s", error.message)
        with database.write() as session:
            end_download(session, base_model_id, error=error.message)
    except Exception:
        logger.exception("download failed")
        unknown = "The download failed for a reason that is only in the log. Ask for it again."
        with database.write() as session:
            end_download(session, base_model_id, error=unknown)
    else:
        with database.write() as session:
            finish_download(session, base_model_id, record)


def download_folder(settings: Settings, hub_id: str, revision: str) -> Path:
    """Where a model of the hub lies; no hub id holds two dashes, so two ids never share a folder."""
    return settings.home / "models" / f"{hub_id.replace('/', '--')}@{revision[:12]}"


def _fetch(database: Database, settings: Settings, base_model_id: str, endpoint: str | None) -> BaseModelRecord:
    with database.read() as session:
        row = get_base_model_by_id(session, base_model_id)
    if row.source is not BaseModelSource.HUB:
        raise InvalidInputError(f"{row.name} is not a model of the hub, so there is nothing to download.")
    repository = look_up(row.name, revision=row.revision, endpoint=endpoint)
    with database.write() as session:
        get_base_model_by_id(session, base_model_id).revision = repository.revision

    def report(downloaded_bytes: int) -> bool:
        with database.write() as session:
            return record_progress(session, base_model_id, downloaded_bytes, repository.total_bytes)

    folder = download_folder(settings, repository.hub_id, repository.revision)
    try:
        with refusing_full_disk(f"downloading {row.name}"):
            _fetch_files(repository, folder, Meter(report), endpoint)
        found = inspect_folder(folder, folder)
    except (DownloadCancelled, InvalidInputError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return BaseModelRecord(
        name=row.name,
        source=BaseModelSource.HUB,
        download_state=DownloadState.READY,
        path=str(folder),
        revision=repository.revision,
        fingerprint=fingerprint(folder, fingerprint_cache(settings)),
        config=found.config,
        details={**found.details, "license": found.license or repository.license, "gated": repository.is_gated},
        total_bytes=repository.total_bytes,
    )


def _fetch_files(repository: HubRepository, folder: Path, meter: Meter, endpoint: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in folder.glob(".cache/**/*.incomplete"):
        left.unlink()  # a download that was killed cannot go on with these
    _check_room(folder, sum(file.size for file in repository.files if not (folder / file.name).exists()))
    for file in repository.files:
        meter.begin()
        _fetch_file(repository, file, folder, meter, endpoint)
        _check_file(folder / file.name, file)
        meter.finish(file.size)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _fetch_file(repository: HubRepository, file: HubFile, folder: Path, meter: Meter, endpoint: str | None) -> None:
    """huggingface_hub goes on after a drop by itself; what it gives up on is tried again from the start."""
    from huggingface_hub import hf_hub_download

    for attempt in range(1, TRIES + 1):
        try:
            with told_in_sentences(repository.hub_id):
                hf_hub_download(
                    repository.hub_id,
                    file.name,
                    revision=repository.revision,
                    local_dir=folder,
                    endpoint=endpoint,
                    tqdm_class=progress_bar(meter),
                )
            return
        except HubUnreachableError:
            if attempt == TRIES:
                raise
            logger.warning("try %d of %d for %s broke off", attempt, TRIES, file.name)
            time.sleep(2.0 ** (attempt - 1))
            meter.begin()


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise StudioError(
            f"The download needs {needed_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left. Free some "
            "space (the page lists disk use by kind) and ask for it again."
        )


def _check_file(path: Path, file: HubFile) -> None:
    is_whole = path.stat().st_size == file.size
    if is_whole and file.sha256:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        is_whole = digest.hexdigest() == file.sha256
    if not is_whole:
        path.unlink()
        raise StudioError(
            f"{file.name} came damaged: it is not the file that the hub names. Ask for the download again."
        )


def main(arguments: list[str]) -> None:
    """Runs one download in a process of its own."""
    # Plain HTTP reports every chunk and can be stopped between two; the hub's other protocol does neither.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    from huggingface_hub import constants

    from storage.logs import set_up_logging

    # By default ten times that: on a slow line progress and the look for a cancellation would be far between.
    constants.DOWNLOAD_CHUNK_SIZE = REPORTED_BYTES
    set_up_logging("download")
    settings = read_settings()
    database = open_database(settings)
    try:
        download(database, settings, arguments[0])
    finally:
        database.close()


if __name__ == "__main__":
    main(sys.argv[1:])
