"""The web role: `python -m app.web` serves the page, REST and the passage to the inference role."""

import logging
import sys

import uvicorn

from app.main import create_app
from storage.errors import StudioError
from storage.logs import set_up_logging
from storage.settings import read_settings

logger = logging.getLogger(__name__)

GRACE_S = 3
"""How long open streams may go on when the role is asked to stop."""


def main() -> int:
    """Serves until a signal comes; returns the exit code."""
    set_up_logging("web")
    try:
        settings = read_settings()
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


if __name__ == "__main__":
    raise SystemExit(main())
