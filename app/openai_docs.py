"""What `/docs` says of the OpenAI-compatible interface; the inference role checks requests itself."""

from typing import Any

from pydantic import BaseModel, Field


class Sampling(BaseModel):
    """Settings that all three calls share."""

    max_tokens: int = Field(64, description="Longest answer; capped to what fits into the context.")
    temperature: float = Field(1.0, description="0 always takes the likeliest token.")
    top_p: float = 1.0
    seed: int | None = Field(None, description="The same seed gives the same answer, whatever else is in the batch.")
    stop: str | list[str] | None = None
    stream: bool = Field(False, description="Answer as server-sent events, piece by piece.")


class OpenAISampling(Sampling):
    """Settings of the two calls in OpenAI's form."""

    n: int = Field(1, description="Answers to each prompt; at most 32 in all.")
    strength: float = Field(100, description="Percent of the prefix that is attended to; not in OpenAI's interface.")


class Completion(OpenAISampling):
    """Body of `/v1/completions`."""

    model: str = Field(description="Name of a base model or of a prefix.")
    prompt: str | list[str] = Field(description="Raw text, put to the model as it is; or several.")
    logprobs: int | None = Field(None, description="Tell log-probabilities, with up to 5 of the likeliest tokens.")


class ChatCompletion(OpenAISampling):
    """Body of `/v1/chat/completions`."""

    model: str = Field(description="Name of a base model with a chat template, or of a prefix on one.")
    messages: list[dict[str, str]] = Field(description="Turns with `role` and `content`.")
    logprobs: bool = Field(False, description="Tell the log-probability of every token.")
    top_logprobs: int | None = Field(None, description="With up to 20 of the likeliest tokens.")


class Comparison(Sampling):
    """Body of `/v1/compare`."""

    models: list[str | dict[str, str | float]] = Field(
        description=(
            'Up to six: names, or `{"model", "context", "strength"}`; the context is none, instruction or few-shot, '
            "the strength of a prefix 0 to 100."
        )
    )
    explain: bool = Field(False, description="Tell of every token how the prefix moved it.")
    prompt: str | None = Field(None, description="Raw text; or give `messages`, or `fields`.")
    messages: list[dict[str, str]] | None = None
    fields: dict[str, str] | None = Field(
        None, description="Cells by column, rendered as the first prefix was trained."
    )


CALLS: tuple[tuple[str, str, str, type[BaseModel] | None], ...] = (
    ("GET", "models", "The base models that are here, and the prefixes on them", None),
    ("POST", "completions", "Continue a raw prompt", Completion),
    ("POST", "chat/completions", "Answer a conversation through the chat template", ChatCompletion),
    ("POST", "compare", "Base and prefixes answer one prompt in one batch", Comparison),
)
"""Method, path beneath `/v1`, what it does, and its body."""


def request_body(model: type[BaseModel] | None) -> dict[str, Any] | None:
    """The body of a call in OpenAPI's words; None where there is none."""
    if model is None:
        return None
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}
