"""A prefix with as many virtual tokens again outside the softmax: how the latter begin and what is trained of them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.matrices import spread_of
from worker.engine.parameterisation import ParameterGroup, Parameterisation

VALUES_RATE_FACTOR = 0.15
KEYS_RATE_FACTOR = 0.3
"""Rates as multiples of the prefix's own, in units of the spread of its values and of the length of a key."""


class WithOutside:
    """`[inside, outside]`: another parameterisation's numbers, and keys and values that nothing is divided among.

    The keys begin as random directions, so that every query is seen whole, and the values as zeros: the prefix begins
    as the other parameterisation does.

    Args:
        inside: What stands in front of the keys and values of attention, in its first state.
        seed: Of the first keys.

    Attributes:
        inside: As given.
    """

    def __init__(self, inside: Parameterisation, seed: int) -> None:
        self.inside = inside
        start = inside.numbers().detach()
        self._spread = spread_of(start[:, :, 1])
        shape = start[:, :, 1].shape
        generator = torch.Generator().manual_seed(seed)
        self._first_keys = (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(start.device)
        self._tensors = {
            name: torch.zeros(shape, device=start.device, requires_grad=True) for name in ("keys", "values")
        }

    def numbers(self) -> Tensor:
        """See `Parameterisation`."""
        return self.around(self.inside.numbers())

    def around(self, inside: Tensor) -> Tensor:
        """The whole prefix `[1, L, 2, H_kv, 2 P, D]`, of what stands inside, `[1, L, 2, H_kv, P, D]`."""
        keys = self._first_keys + self._tensors["keys"] * self._first_keys.shape[-1] ** -0.5
        outside = torch.stack([keys, self._tensors["values"] * self._spread], dim=2)
        return torch.cat([inside, outside], dim=-2)

    def groups(self) -> list[ParameterGroup]:
        """See `Parameterisation`."""
        factors = {"keys": KEYS_RATE_FACTOR, "values": VALUES_RATE_FACTOR}
        own = [ParameterGroup((tensor,), factors[name], "muon") for name, tensor in self._tensors.items()]
        return [*self.inside.groups(), *own]

    def state(self) -> dict[str, Tensor]:
        """See `Parameterisation`."""
        inside = {f"inside.{name}": tensor for name, tensor in self.inside.state().items()}
        return inside | {name: tensor.detach().cpu().clone() for name, tensor in self._named().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Parameterisation`."""
        self.inside.load({name.removeprefix("inside."): state[name] for name in state if name.startswith("inside.")})
        for name, tensor in self._named().items():
            tensor.copy_(state[name])

    def _named(self) -> dict[str, Tensor]:
        """With the start, as a resumed training might compute it with other rounding."""
        return {"first_keys": self._first_keys, "spread": self._spread, **self._tensors}
