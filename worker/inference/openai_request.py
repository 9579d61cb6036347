"""What completions and chat have in common: the settings of a request in OpenAI's form, each checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.inference.answers import Answer
from worker.inference.batch import Ended
from worker.inference.errors import InvalidRequestError
from worker.inference.requests import Fields, Sampling, shown

DONE = "[DONE]"
"""Data of the last event of a stream."""

MAX_CHOICES = 32
"""Answers of one request at most, over all its prompts."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Settings that would change the answer and are not offered, with the values that ask nothing."""


@dataclass(frozen=True)
class OpenAIRequest:
    """The settings of a request.

    Attributes:
        model: Name of a base or of a prefix.
        sampling: For every answer.
        num_choices: Answers to each prompt.
        strength: How much of the prefix is attended to, 0 to 1.
        wants_stream: Whether the answer comes as events.
        wants_usage: Whether a stream ends with the counts of tokens.
    """

    model: str
    sampling: Sampling
    num_choices: int
    strength: float
    wants_stream: bool
    wants_usage: bool

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are told."""
        return self.sampling.top_logprobs is not None


def read_request(fields: Fields, *, max_tokens: int, top_logprobs: int | None) -> OpenAIRequest:
    """Reads the settings that both routes share.

    Args:
        fields: The body.
        max_tokens: Length of an answer where the request names none.
        top_logprobs: See `Sampling`; each route has a form of its own for it.

    Raises:
        InvalidRequestError: A setting is out of its range, or not offered.
    """
    num_choices = fields.integer("n", 1, MAX_CHOICES) or 1
    _refuse_unsupported(fields, num_choices)
    sampling = fields.sampling(max_tokens=max_tokens, temperature=1.0)
    options = fields.get("stream_options")
    wants_stream = fields.flag("stream")
    if options is not None and not (wants_stream and isinstance(options, dict)):
        raise InvalidRequestError(
            f"stream_options is {shown(options)}; expected an object, and only together with stream true.",
            param="stream_options",
        )
    return OpenAIRequest(
        model=fields.text("model", limit=1000),
        sampling=replace(sampling, top_logprobs=top_logprobs),
        num_choices=num_choices,
        strength=fields.strength(),
        wants_stream=wants_stream,
        wants_usage=Fields(options or {}).flag("include_usage"),
    )


def usage(answer: Answer, ends: Sequence[Ended | None], num_choices: int) -> dict[str, int]:
    """Counts of tokens in OpenAI's form; virtual tokens are not counted, as nobody sent them.

    Args:
        answer: With what each answer was asked.
        ends: Of the answers.
        num_choices: Answers to one prompt, which is counted once.
    """
    prompt_tokens = sum(started.prompt_tokens for started in answer.started[::num_choices])
    completion_tokens = sum(end.tokens for end in ends if end is not None)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _refuse_unsupported(fields: Fields, num_choices: int) -> None:
    for name, neutral in {**NEUTRAL, "best_of": (1, num_choices)}.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            raise InvalidRequestError(
                f"{name} is {shown(value)}, which this server does not offer. Leave {name} out.", param=name
            )
