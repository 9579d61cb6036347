"""Fetches a dataset from the hub: `python -m storage.hub_datasets.child REQUEST.json`, a child of the web role.

How far it is stands in `progress.json` beside the request, how it ended in `result.json`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from storage.bases.fetch import check_room, fetch_file, prepare_downloads
from storage.bases.meter import Meter
from storage.disk import DiskFullError, refusing_full_disk
from storage.errors import StudioError
from storage.hub_datasets.look_up import look_up_dataset
from storage.tables.child import end_with_parent

PROGRESS_NAME, RESULT_NAME, FILES_NAME = "progress.json", "result.json", "files"


def fetch(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fetches all files of a request into `folder`.

    Args:
        request: `hub_id`, `subset`, `max_bytes` and `endpoint`.
        folder: Where they go.

    Returns:
        `hub_id`, `revision`, `subset`, and `parts`: for each part the paths of its files.

    Raises:
        StudioError: The dataset cannot be had.
    """
    endpoint = request["endpoint"]
    found = look_up_dataset(
        request["hub_id"], subset=request["subset"], max_bytes=request["max_bytes"], endpoint=endpoint
    )
    total = sum(file.size for file in found.files)
    files = folder / FILES_NAME
    files.mkdir(mode=0o700)
    check_room(files, total)

    def report(downloaded_bytes: int) -> bool:
        _write(folder / PROGRESS_NAME, {"downloaded_bytes": downloaded_bytes, "total_bytes": total})
        return False

    meter = Meter(report)
    for file in found.files:
        meter.begin()
        fetch_file(found.hub_id, found.revision, file, files, meter, endpoint=endpoint, kind="dataset")
        meter.finish(file.size)
    return {
        "hub_id": found.hub_id,
        "revision": found.revision,
        "subset": found.subset,
        "parts": {part: [str(files / file.name) for file in group] for part, group in found.parts.items()},
    }


def main(arguments: list[str]) -> None:
    """Answers the request in its folder."""
    path = Path(arguments[0])
    request = json.loads(path.read_text(encoding="utf-8"))
    prepare_downloads()
    end_with_parent()
    try:
        with refusing_full_disk("downloading the dataset"):
            result = fetch(request, path.parent)
    except StudioError as error:
        code = "disk_full" if isinstance(error, DiskFullError) else error.code
        result = {"error": {"code": code, "status": error.http_status, "message": error.message}}
    _write(path.with_name(RESULT_NAME), result)


def _write(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value), encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    main(sys.argv[1:])
