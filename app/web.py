"""The web role: `python -m app.web` serves the page, REST and the passage to the inference role."""

import logging
import os
import shutil
import sys
from pathlib import Path

import uvicorn

from app.main import create_app
from storage.children import end_with_parent
from storage.errors import StudioError
from storage.logs import set_up_logging
from storage.settings import read_settings

logger = logging.getLogger(__name__)

GRACE_S = 3
"""How long open streams may go on when the role is asked to stop."""


def main() -> int:
    """Serves until a signal comes; returns the exit code."""
    set_up_logging("web")
    end_with_parent()
    try:
        settings = read_settings()
        _keep_uploads_of_the_page(settings.home / "cache" / "page")
        app = create_app(settings)
    except StudioError as error:
        print(error.message, file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    logger.info("the web role listens on %s port %s", settings.host, settings.port)
    uvicorn.Server(config).run()
    return 0


def _keep_uploads_of_the_page(folder: Path) -> None:
    """Has Gradio put what the page uploads into a private folder, which is emptied of what a killed role left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)


if __name__ == "__main__":
    raise SystemExit(main())
