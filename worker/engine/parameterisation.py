"""What an optimiser steps on, and the prefix that comes out of it; knows neither loss nor schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from worker.engine.recipe import Method

Rule = Literal["adamw", "muon"]


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors that share a learning rate.

    Attributes:
        tensors: Leaves that require gradients, fp32.
        rate_factor: Their rate as a multiple of the training's.
        rule: The optimiser; Muon takes stacks of matrices `[..., rows, columns]`.
    """

    tensors: tuple[Tensor, ...]
    rate_factor: float = 1.0
    rule: Rule = "adamw"


class Parameterisation(Protocol):
    """Trained tensors and what they mean. The order of groups and of their tensors never changes."""

    def numbers(self) -> Tensor:
        """The prefix, with the graph back to the tensors.

        Returns:
            fp32; `[1, L, 2, H_kv, P, D]` for prefix tuning, `[1, P, hidden]` for prompt tuning.
        """
        ...

    def groups(self) -> list[ParameterGroup]:
        """Everything that is trained."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, copied to the CPU."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of `state()` back, in place."""
        ...


class Direct:
    """The prefix's own numbers are trained; keys and values are tensors apart, so that their rates may differ.

    Args:
        method: What the numbers are.
        numbers: Start state `[1, L, 2, H_kv, P, D]` or `[1, P, hidden]`, fp32; copied.
        key_rate_factor: Rate of the keys as a multiple of the values'; nothing to prompt tuning.
    """

    def __init__(self, method: Method, numbers: Tensor, key_rate_factor: float = 1.0) -> None:
        is_prompt = method == "prompt-tuning"
        parts = {"vectors": numbers} if is_prompt else {"keys": numbers[:, :, 0], "values": numbers[:, :, 1]}
        self._tensors = {name: part.detach().clone().requires_grad_(True) for name, part in parts.items()}
        self._key_rate_factor = key_rate_factor

    def numbers(self) -> Tensor:
        """See `Parameterisation`."""
        if "vectors" in self._tensors:
            return self._tensors["vectors"]
        return torch.stack([self._tensors["keys"], self._tensors["values"]], dim=2)

    def groups(self) -> list[ParameterGroup]:
        """See `Parameterisation`."""
        factors = {"keys": self._key_rate_factor}
        return [ParameterGroup((tensor,), factors.get(name, 1.0)) for name, tensor in self._tensors.items()]

    def state(self) -> dict[str, Tensor]:
        """See `Parameterisation`."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Parameterisation`."""
        for name, tensor in self._tensors.items():
            tensor.copy_(state[name])
