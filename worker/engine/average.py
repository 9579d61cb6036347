"""A running average of trained tensors: the middle of where the steps of a training go to and fro."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

HORIZON_AT_START = 10
"""The first averages reach back over a share of the steps so far, as if so many had been taken before."""


class Average:
    """An exponential average of some tensors.

    With few rows a high rate moves the state around its goal; the average lies nearer to it than any of the states.

    Args:
        tensors: What is trained; changed elsewhere, in place.
        decay: Share of the old average that a step keeps; with 0 the average is the state itself.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self._tensors, self._decay, self._num_updates = list(tensors), decay, 0
        self._averages = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the state after a step in."""
        self._num_updates += 1
        decay = min(self._decay, self._num_updates / (self._num_updates + HORIZON_AT_START))
        torch._foreach_lerp_(self._averages, self._tensors, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average where the state is, for as long as the block runs."""
        with torch.no_grad():
            states = [tensor.detach().clone() for tensor in self._tensors]
            _copy(self._averages, self._tensors)
            try:
                yield
            finally:
                _copy(states, self._tensors)

    def state(self) -> dict[str, Tensor]:
        """The averages by name, copied to the CPU."""
        numbered = {str(index): average.cpu().clone() for index, average in enumerate(self._averages)}
        return numbered | {"num_updates": torch.tensor(self._num_updates)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of `state()` back."""
        self._num_updates = int(state["num_updates"])
        _copy([state[str(index)] for index in range(len(self._averages))], self._averages)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
