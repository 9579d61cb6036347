"""The prefix as matrices of tokens by features, trained by Muon in units of how far real keys and values spread."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.parameterisation import ParameterGroup
from worker.engine.recipe import Method

MIN_SPREAD = 0.1
"""Least spread as a share of the numbers' own size, for tokens that are alike or alone."""


class Matrices:
    """`prefix = start + spread * matrices`: one matrix `[P, H_kv D]` for the keys and one for the values of a layer.

    The spread is the standard deviation over the start's tokens, for each layer, kind and head. So a rate means the
    same in every layer and every base: the share of that spread which one step moves a number by.

    Args:
        method: What the numbers are; input vectors are a single matrix `[P, hidden]`.
        numbers: Start state `[1, L, 2, H_kv, P, D]` or `[1, P, hidden]`, fp32; copied.
        key_rate_factor: Rate of the keys as a multiple of the values'; nothing to prompt tuning.
    """

    def __init__(self, method: Method, numbers: Tensor, key_rate_factor: float = 1.0) -> None:
        self._start = numbers.detach().clone()
        self._spread = spread_of(self._start)
        self._key_rate_factor = key_rate_factor
        if method == "prompt-tuning":
            shapes = {"vectors": numbers.shape}
        else:
            _, layers, _, heads, length, width = numbers.shape
            shapes = dict.fromkeys(("keys", "values"), torch.Size((layers, length, heads * width)))
        self._tensors = {
            name: torch.zeros(shape, device=numbers.device, requires_grad=True) for name, shape in shapes.items()
        }

    def numbers(self) -> Tensor:
        """See `Parameterisation`."""
        return self._start + self.change()

    def change(self) -> Tensor:
        """What has been added to the start, in the shape of the numbers."""
        return self._spread * self._moved()

    def groups(self) -> list[ParameterGroup]:
        """See `Parameterisation`."""
        factors = {"keys": self._key_rate_factor}
        return [ParameterGroup((tensor,), factors.get(name, 1.0), "muon") for name, tensor in self._tensors.items()]

    def state(self) -> dict[str, Tensor]:
        """See `Parameterisation`."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._named().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Parameterisation`."""
        for name, tensor in self._named().items():
            tensor.copy_(state[name])

    def _moved(self) -> Tensor:
        """The matrices in the shape of the numbers."""
        if "vectors" in self._tensors:
            return self._tensors["vectors"]
        _, layers, kinds, heads, length, width = self._start.shape
        both = torch.stack([self._tensors["keys"], self._tensors["values"]], dim=1)
        return both.view(1, layers, kinds, length, heads, width).transpose(3, 4)

    def _named(self) -> dict[str, Tensor]:
        """With the start, since a resumed training might compute it with other rounding."""
        return {"start": self._start, "spread": self._spread, **self._tensors}


def spread_of(numbers: Tensor) -> Tensor:
    """How far the tokens of each layer, kind and head lie from their mean, as a root mean square.

    Args:
        numbers: `[..., P, D]`.

    Returns:
        `[..., 1, 1]`, above 0.
    """
    deviation = numbers - numbers.mean(-2, keepdim=True)
    spread, size = (part.square().mean((-2, -1), keepdim=True).sqrt() for part in (deviation, numbers))
    return torch.maximum(spread, MIN_SPREAD * size).clamp(min=1e-6)
