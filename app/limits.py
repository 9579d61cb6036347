"""Caps the body of every request before anything reads it, chunked ones too.

Gradio's own cap counts files only: one form field or JSON body of 400 MB took 1.1 GB of memory.
"""

import re
from typing import TYPE_CHECKING

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.refusal import refuse

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_BODY_BYTES = 8_000_000
MAX_FIELD_BYTES = 1_000_000
MULTIPART_SLACK_BYTES = 1_000_000

UPLOAD_PATHS = re.compile(r"/api/v1/datasets|/api/v1/prefixes(/\w+/answers)?|/gradio_api/upload")


class BodyTooLargeError(Exception):
    """Raised into whatever reads the body, so that it stops reading; the answer is written here."""


class BodyLimit:
    """ASGI middleware that answers 413 to a body over its cap.

    Args:
        app: What comes after.
        max_upload_bytes: Cap of the files of one upload; every other body may have `MAX_BODY_BYTES`.
    """

    def __init__(self, app: ASGIApp, *, max_upload_bytes: int) -> None:
        self.app = app
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts the body of one request as it passes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        fields = FieldWatch.of(headers) if UPLOAD_PATHS.fullmatch(scope["path"].rstrip("/")) else None
        # Only files go to disk as they come; a body of any other kind would stand in memory.
        cap = MAX_BODY_BYTES if fields is None else self.max_upload_bytes + MULTIPART_SLACK_BYTES
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > cap:
            await refuse(scope, receive, send, 413, "too_large", _sentence(cap))
            return
        await self._pass_on(scope, receive, send, cap, fields)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, cap: int, fields: "FieldWatch | None") -> None:
        received = 0
        refused: str | None = None
        started = False

        async def counted_receive() -> Message:
            nonlocal received, refused
            message = await receive()
            body = message.get("body", b"")
            received += len(body)
            if received > cap:
                refused = _sentence(cap)
            elif fields is not None and not fields.accepts(body):
                refused = f"A form field is over {MAX_FIELD_BYTES:,} bytes. Send large data as a file."
            if refused is not None:
                raise BodyTooLargeError
            return message

        async def guarded_send(message: Message) -> None:
            nonlocal started
            # Once refused, whatever the app makes of its broken body is not the answer.
            if refused is None or started:
                started = True
                await send(message)

        try:
            await self.app(scope, counted_receive, guarded_send)
        except BodyTooLargeError:
            if started:
                raise
        if refused is not None and not started:
            await refuse(scope, receive, send, 413, "too_large", refused)


class FieldWatch:
    """Follows a multipart body and measures its parts that are no file; parsers keep those in memory."""

    def __init__(self, boundary: bytes) -> None:
        self._disposition = b""
        self._header_name = b""
        self._header_value = b""
        self._is_file = False
        self._is_broken = False
        self._field_bytes = 0
        self._parser = MultipartParser(boundary, self._callbacks())

    @classmethod
    def of(cls, headers: Headers) -> "FieldWatch | None":
        """A watch for a request with these headers; None where its body is no multipart that can be read."""
        kind, options = parse_options_header(headers.get("content-type", ""))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            return None
        try:
            return cls(boundary)
        except ValueError:
            return None

    def accepts(self, chunk: bytes) -> bool:
        """Whether the fields are still within the cap after these bytes."""
        if not self._is_broken:
            try:
                self._parser.write(chunk)
            except ValueError:
                self._is_broken = True  # the parser behind stops here too, and gives the sentence for it
        return self._field_bytes <= MAX_FIELD_BYTES

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
        }

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._is_file = False

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        # The last one counts where there are several, as in the parsers of Starlette and Gradio.
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        self._is_file = b"filename" in parse_options_header(self._disposition)[1]

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._field_bytes += end - start


def _sentence(cap: int) -> str:
    return f"The request is over {cap / 1e6:,.0f} MB, which is the most that is taken here. Send less."
