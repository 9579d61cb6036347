"""What a measured stretch of training gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """Real (unpadded) tokens of prompts and targets, and the seconds that they took."""

    tokens: int
    seconds: float
