"""Hiding some virtual tokens from a step's rows, so that none of them is leant on alone; knows no training."""

import torch
from torch import Tensor

OVERFITTING_FACTOR = 1.05
"""How far the validation loss lies above the training loss where a prefix counts as knowing its rows by heart."""

EPOCHS_BEFORE = 2
"""Before every row was seen twice nothing can be known by heart."""


def is_overfitting(train_loss: float, validation_loss: float) -> bool:
    """Whether the rows that were learnt from are much easier by now than those that were not.

    Args:
        train_loss: Mean over the steps since the look at the validation rows before this one.
        validation_loss: Of this look.
    """
    return validation_loss > OVERFITTING_FACTOR * train_loss


def shown_tokens(share: float, length: int, seed: int, step: int) -> Tensor | None:
    """The virtual tokens that a step shows; known from seed and step alone, so that a resumed training goes on exactly.

    Args:
        share: How many of them are hidden, on average.
        length: Length P of the prefix.
        seed: Of the training.
        step: Updates before this one.

    Returns:
        Their indices, or None where all are shown; at least one is.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    shown = (torch.rand(length, generator=generator) >= share).nonzero().flatten()
    return shown if 0 < len(shown) < length else None
