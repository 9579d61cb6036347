"""Asks the model server for a comparison and follows what it writes, at a pace that a page can draw."""

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any

from app.context import AppContext
from app.services import inference
from app.services.columns import Column, is_prefixed
from app.ui.compare_view import Comparison
from storage.errors import BusyError

UPDATE_EVERY_S = 0.2
START_TIMEOUT_S = 60.0
PLACE_TIMEOUT_S = 20.0
"""How long a request waits for a place where the model server has as many as it takes."""

PLACE_EVERY_S = 1.0


def until_ready(context: AppContext, cancelled: Event) -> Iterator[None]:
    """Waits for a model server that is still starting, as it does for some seconds after the page is up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not inference.is_up(context) and time.monotonic() < deadline:
        yield
        if cancelled.wait(UPDATE_EVERY_S):
            return


def follow(
    context: AppContext, body: dict[str, Any], comparison: Comparison, cancelled: Event, client: str
) -> Iterator[None]:
    """Fills a comparison as its answers are written.

    Args:
        context: The open stores.
        body: The request.
        comparison: What is filled; what was being written when the stream ended counts as stopped.
        cancelled: Ends the writing.
        client: Who asks.

    Yields:
        Whenever there is something new to draw, at most five times a second; while a place is waited for,
        `comparison.is_waiting` holds.

    Raises:
        BusyError: There was no free place for too long, or the model server is not there.
        StudioError: It refuses.
    """
    deadline, last = time.monotonic() + PLACE_TIMEOUT_S, 0.0
    while not cancelled.is_set():
        try:
            with closing(inference.compare_stream(context, body, client=client)) as events:
                for event in events:
                    if cancelled.is_set():
                        break
                    comparison.take(event)
                    if time.monotonic() - last >= UPDATE_EVERY_S:
                        last = time.monotonic()
                        yield
            break
        except BusyError:
            # What has begun to answer is not asked again: its words are on the page already.
            if comparison.has_begun or time.monotonic() > deadline:
                raise
        comparison.is_waiting = True
        yield
        cancelled.wait(PLACE_EVERY_S)
    comparison.end()


def with_rendering(
    body: dict[str, Any], columns: list[Column], base: str, source: dict[str, Any] | None
) -> dict[str, Any]:
    """The request with a prefix's rendering where no prefix is among the columns to bring its own."""
    if source is None or any(is_prefixed(column, base) for column in columns):
        return body
    rendering = source["rendering"]
    if rendering.get("kind") not in ("plain", "chat"):
        return body
    return {**body, "rendering": {name: rendering.get(name) or "" for name in ("kind", "template", "instruction")}}
