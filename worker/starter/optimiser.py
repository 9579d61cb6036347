"""Muon for the matrices, AdamW for embedding and norms, and the rate over the run's progress."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from worker.starter.model import Decoder

MUON_RATE = 0.02
ADAMW_RATE = 3e-3
WARMUP = 0.01
DECAY_FROM = 0.3


def rate_factor(progress: float) -> float:
    """The learning rate as a share of its peak: a short rise, a level stretch, then a straight line to zero.

    Args:
        progress: Share of the run that is over, 0 to 1.
    """
    if progress < WARMUP:
        return max(progress / WARMUP, 0.02)
    if progress < DECAY_FROM:
        return 1.0
    return max(1.0 - (progress - DECAY_FROM) / (1.0 - DECAY_FROM), 0.0)


class Optimisers:
    """Both optimisers as one.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(self, decoder: Decoder) -> None:
        matrices = [weight for weight in decoder.layers.parameters() if weight.ndim == 2]
        vectors = [weight for weight in decoder.parameters() if weight.ndim == 1]
        self.muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05)
        self.adamw = torch.optim.AdamW(
            [
                {"params": [decoder.embed_tokens.weight], "weight_decay": 0.01},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=ADAMW_RATE,
            betas=(0.9, 0.95),
        )

    @property
    def _pairs(self) -> Sequence[tuple[Optimizer, float]]:
        return ((self.muon, MUON_RATE), (self.adamw, ADAMW_RATE))

    def step(self, progress: float) -> None:
        """One update at the rate that belongs to `progress`; the gradients are cleared."""
        factor = rate_factor(progress)
        for optimiser, peak in self._pairs:
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
