"""One file of a repository on the hub, fetched with retries and held against its size and SHA-256."""

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from storage.bases.hub import HubFile, HubUnreachableError, told_in_sentences
from storage.bases.meter import Meter, progress_bar
from storage.errors import StudioError

logger = logging.getLogger(__name__)

TRIES = 4
SPARE_BYTES = 500_000_000
"""Room that a download leaves on the disk."""

CHUNK_BYTES = 1 << 22
REPORTED_BYTES = 1 << 20


def prepare_downloads() -> None:
    """Sets huggingface_hub up for downloads that tell how far they are; for a process that does nothing else."""
    # Plain HTTP reports every chunk and can be stopped between two; the hub's other protocol does neither.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    from huggingface_hub import constants

    # By default ten times that: on a slow line progress and the look for a cancellation would be far between.
    constants.DOWNLOAD_CHUNK_SIZE = REPORTED_BYTES


def fetch_file(
    hub_id: str,
    revision: str,
    file: HubFile,
    folder: Path,
    meter: Meter,
    *,
    endpoint: str | None = None,
    kind: str = "model",
) -> None:
    """Fetches a file; huggingface_hub goes on after a drop by itself, what it gives up on is tried again.

    Args:
        hub_id: The repository.
        revision: Its commit.
        file: What the hub lists.
        folder: Where it goes, under its name.
        meter: Counts, and ends the transfer where its user cancels.
        endpoint: Address of the hub; huggingface_hub's own by default.
        kind: `model` or `dataset`.

    Raises:
        StudioError: It cannot be had, or came damaged.
        DownloadCancelled: The user asked to stop.
    """
    from huggingface_hub import hf_hub_download

    for attempt in range(1, TRIES + 1):
        try:
            with told_in_sentences(hub_id, kind):
                hf_hub_download(
                    hub_id,
                    file.name,
                    repo_type=kind,
                    revision=revision,
                    local_dir=folder,
                    endpoint=endpoint,
                    tqdm_class=progress_bar(meter),
                )
            break
        except HubUnreachableError:
            if attempt == TRIES:
                raise
            logger.warning("try %d of %d for %s broke off", attempt, TRIES, file.name)
            time.sleep(2.0 ** (attempt - 1))
            meter.begin()
    _check_file(folder / file.name, file)


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuses a download for which there is no room.

    Raises:
        StudioError: With both numbers.
    """
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
