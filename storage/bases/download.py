"""Fetches a base model from the hub: `python -m storage.bases.download ID`, a child of the dispatcher.

The commit is pinned first. Progress goes into the model's row, which also says when its user cancels. Dropped
connections are picked up where they broke; weights are held against the SHA-256 that the hub names.
"""

import logging
import shutil
import sys
from pathlib import Path

from storage.base_models import BaseModelRecord, get_base_model_by_id
from storage.bases.catalog import fingerprint_cache
from storage.bases.fetch import check_room, fetch_file, prepare_downloads
from storage.bases.fingerprint import fingerprint
from storage.bases.hub import HubRepository, look_up
from storage.bases.inspect import inspect_folder
from storage.bases.meter import DownloadCancelled, Meter
from storage.children import end_with_parent
from storage.database import Database, open_database
from storage.disk import refusing_full_disk
from storage.downloads import end_download, finish_download, record_progress
from storage.errors import InvalidInputError, StudioError
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.settings import Settings, read_settings

logger = logging.getLogger(__name__)


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
    check_room(folder, sum(file.size for file in repository.files if not (folder / file.name).exists()))
    for file in repository.files:
        meter.begin()
        fetch_file(repository.hub_id, repository.revision, file, folder, meter, endpoint=endpoint)
        meter.finish(file.size)
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Runs one download in a process of its own."""
    from storage.logs import set_up_logging

    prepare_downloads()
    set_up_logging("download")
    end_with_parent()
    settings = read_settings()
    database = open_database(settings)
    try:
        download(database, settings, arguments[0])
    finally:
        database.close()


if __name__ == "__main__":
    main(sys.argv[1:])
