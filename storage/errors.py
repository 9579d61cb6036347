"""The one base class of every error that a person may read."""

from typing import ClassVar


class StudioError(Exception):
    """A fault told in one sentence: what, got, expected, remedy.

    Args:
        message: The sentence that a person reads, in the page and through REST.
        row: The row of the user's file that it speaks of, counted from 1, where there is one.

    Subclasses set `code`, which a program reads, and `http_status`, with which REST answers.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 400

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.row = row


class InvalidInputError(StudioError):
    """What was sent cannot be used as it is."""

    code = "invalid_input"
    http_status = 422


class NotFoundError(StudioError):
    """Nothing of that name or id is there."""

    code = "not_found"
    http_status = 404


class ConflictError(StudioError):
    """It cannot be done in the state that things are in."""

    code = "conflict"
    http_status = 409


class TooLargeError(StudioError):
    """It is over a cap."""

    code = "too_large"
    http_status = 413


class WrongBaseError(StudioError):
    """A prefix meets a base model that it was not trained on."""

    code = "wrong_base"
    http_status = 409


class BusyError(StudioError):
    """Something that is needed is in use; the same call works later."""

    code = "busy"
    http_status = 503


class SettingsError(StudioError):
    """A setting cannot be used, so nothing is started."""

    code = "settings"
    http_status = 500
