"""Log-probabilities of tokens in the two forms of OpenAI's interface."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from worker.engine.detokenise import REPLACEMENT
from worker.engine.explain import token_text
from worker.engine.generate import TokenEvent


@dataclass(frozen=True)
class TokenLogprobs:
    """One token of an answer, spelled out.

    Attributes:
        token: Its text, which may be half a character.
        logprob: Natural logarithm of its probability under the model.
        top: Texts of the most likely tokens with theirs, the most likely first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


def spell(tokenizer: PreTrainedTokenizerBase, event: TokenEvent) -> TokenLogprobs:
    """A chosen token and its rivals as texts."""
    top = tuple((token_text(tokenizer, token_id), logprob) for token_id, logprob in event.top)
    return TokenLogprobs(token_text(tokenizer, event.token_id), event.logprob, top)


def completion_logprobs(tokens: Sequence[TokenLogprobs], offset: int = 0) -> dict[str, Any]:
    """The form of `/v1/completions`: lists side by side.

    Args:
        tokens: In order.
        offset: Characters of the answer before the first of them.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        # The chosen token is always among them, so that there may be one more than was asked for.
        "top_logprobs": [{**dict(token.top), token.token: token.logprob} for token in tokens],
        "text_offset": offsets,
    }


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """The form of `/v1/chat/completions`: an object for each token."""
    content = [
        {
            **_chat_token(token.token, token.logprob),
            "top_logprobs": [_chat_token(text, logprob) for text, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(text: str, logprob: float) -> dict[str, Any]:
    # What decoders put in the place of half a character says nothing of its bytes.
    return {"token": text, "logprob": logprob, "bytes": None if REPLACEMENT in text else list(text.encode())}
