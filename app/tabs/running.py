"""Which browser tabs are being answered, so that Stop and a closed tab end the writing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr


class RunningAnswers:
    """One event a browser tab; it is set when nobody wants the answer any more."""

    def __init__(self) -> None:
        self._events: dict[str, threading.Event] = {}

    @contextmanager
    def track(self, session_hash: str | None) -> Iterator[threading.Event]:
        """Gives the event of an answer that begins; one that still runs in the same tab is ended."""
        key, event = session_hash or "", threading.Event()
        earlier = self._events.get(key)
        if earlier is not None:
            earlier.set()
        self._events[key] = event
        try:
            yield event
        finally:
            if self._events.get(key) is event:
                del self._events[key]

    def is_latest(self, session_hash: str | None, event: threading.Event) -> bool:
        """Whether no other answer has begun in the same tab since."""
        return self._events.get(session_hash or "") is event

    def cancel(self, request: gr.Request) -> None:
        """Ends the answer that is written for the browser tab of `request`."""
        event = self._events.get(request.session_hash or "")
        if event is not None:
            event.set()
