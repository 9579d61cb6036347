"""Token ids → text while they come: no half characters, and nothing of a stop string; knows no model."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are not, or not yet, a character."""

NUM_CONTEXT_TOKENS = 6
"""Tokens of the prompt that are decoded along, so that a first word keeps its space."""


class Detokeniser:
    """Text of one row, piece by piece.

    Only a window of tokens is decoded each time: those of the last piece as context, and the new ones.

    Args:
        tokenizer: Tokenizer of the base.
        prompt_ids: Ids that the row goes on from.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids[-NUM_CONTEXT_TOKENS:])
        self._context_start = 0
        self._unread_start = len(self._ids)

    def push(self, token_id: int) -> str:
        """Takes a token; returns the text that is certain now, which is none while a character is half there."""
        self._ids.append(token_id)
        text = self._unread_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context_start, self._unread_start = self._unread_start, len(self._ids)
        return text

    def flush(self) -> str:
        """The text that was still held back, without the half character at its end."""
        return self._unread_text().rstrip(REPLACEMENT)

    def _unread_text(self) -> str:
        context = self._decode(self._ids[self._context_start : self._unread_start])
        return self._decode(self._ids[self._context_start :])[len(context) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopFilter:
    """Ends a text at the first stop string, and holds back what may be the beginning of one.

    Args:
        stop: Stop strings; empty ones are left out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Takes a piece of text.

        Returns:
            The text that may be shown, and whether a stop string has been met.
        """
        pending = self._held + text
        found = [at for at in (pending.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self._held = ""
            return pending[: min(found)], True
        keep = max((_overlap(pending, stop) for stop in self._stop), default=0)
        shown = pending[: len(pending) - keep]
        self._held = pending[len(shown) :]
        return shown, False

    def flush(self) -> str:
        """The text that was held back, as no stop string came of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, though not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
