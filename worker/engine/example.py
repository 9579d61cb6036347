"""One training row as token ids; knows neither text nor tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, tokenised apart and joined (see docs/contract.md).

    Attributes:
        prompt_ids: Ids of the prompt with the tokenizer's own special tokens in front.
        target_ids: Ids of the answer, its end token last; the loss is taken on these only.
    """

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens of the row, without the prefix."""
        return len(self.prompt_ids) + len(self.target_ids)
