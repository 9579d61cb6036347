"""What the engine refuses, each in a sentence that a person can act on."""

from typing import ClassVar


class EngineError(Exception):
    """Base class: the message is the sentence, `code` is for programs."""

    code: ClassVar[str] = "engine_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnsupportedModelError(EngineError):
    """This base model cannot take a prefix, or may not be loaded."""

    code = "unsupported_model"


class UnsupportedPrecisionError(EngineError):
    """The base cannot be held in that number format on this machine."""

    code = "unsupported_precision"


class InvalidRecipeError(EngineError):
    """A setting of the training is out of its range."""

    code = "invalid_recipe"


class ContextOverflowError(EngineError):
    """Prompt, answer and prefix are longer than the model's context."""

    code = "context_overflow"


class DivergedError(EngineError):
    """The loss is no longer a number."""

    code = "diverged"


class OutOfMemoryError(EngineError):
    """The device has too little memory for even one row."""

    code = "out_of_memory"


class InvalidPrefixFileError(EngineError):
    """A prefix file is not what it should be."""

    code = "invalid_prefix_file"
