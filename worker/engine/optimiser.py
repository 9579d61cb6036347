"""AdamW and Muon over what a parameterisation trains: clipping, rates by group, and their state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.muon import Muon
from worker.engine.parameterisation import ParameterGroup, Parameterisation


class Optimiser:
    """Steps on the tensors of one parameterisation.

    Args:
        parameterisation: What is trained.
        weight_decay: Decoupled decay.
        max_grad_norm: Norm to which the gradient of all tensors together is clipped; 0 leaves it as it is.
    """

    def __init__(self, parameterisation: Parameterisation, *, weight_decay: float, max_grad_norm: float) -> None:
        groups = parameterisation.groups()
        self._max_grad_norm = max_grad_norm
        self._optimisers = [(_optimiser_of(group, weight_decay), group.rate_factor) for group in groups]
        pairs = zip(groups, self._optimisers, strict=True)
        self._owned = [(tensor, optimiser) for group, (optimiser, _) in pairs for tensor in group.tensors]

    def gradient_norm(self) -> float:
        """Norm of the gradient that lies at the tensors."""
        return float(torch.nn.utils.get_total_norm(self._gradients()))

    def step(self, learning_rate: float, gradient_norm: float) -> None:
        """Clips the gradient, whose norm is known, and takes a step; the gradient is gone then."""
        if 0 < self._max_grad_norm < gradient_norm:
            torch._foreach_mul_(self._gradients(), self._max_grad_norm / gradient_norm)
        for optimiser, factor in self._optimisers:
            optimiser.param_groups[0]["lr"] = learning_rate * factor
            optimiser.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Drops the gradient without a step."""
        for tensor, _ in self._owned:
            tensor.grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments by name, copied to the CPU; empty before the first step."""
        return {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, (tensor, optimiser) in enumerate(self._owned)
            for name, value in optimiser.state.get(tensor, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of `state()` back."""
        for optimiser, _ in self._optimisers:
            optimiser.state.clear()
        for key, value in state.items():
            index, name = key.split(".", 1)
            tensor, optimiser = self._owned[int(index)]
            optimiser.state[tensor][name] = value.clone().to(tensor.device)

    def _gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor, _ in self._owned if tensor.grad is not None]


def _optimiser_of(group: ParameterGroup, weight_decay: float) -> torch.optim.Optimizer:
    parameters = list(group.tensors)
    if group.rule == "muon":
        return Muon([{"params": parameters}], weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay, fused=True)
