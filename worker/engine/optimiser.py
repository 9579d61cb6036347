"""AdamW over what a parameterisation trains: clipping, rates by group, and its state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.parameterisation import Parameterisation


class Optimiser:
    """Steps on the tensors of one parameterisation.

    Args:
        parameterisation: What is trained.
        weight_decay: Decoupled decay.
        max_grad_norm: Norm to which the gradient of all tensors together is clipped; 0 leaves it as it is.
    """

    def __init__(self, parameterisation: Parameterisation, *, weight_decay: float, max_grad_norm: float) -> None:
        groups = parameterisation.groups()
        self._tensors = [tensor for group in groups for tensor in group.tensors]
        self._rate_factors = [group.rate_factor for group in groups]
        self._max_grad_norm = max_grad_norm
        parameters = [{"params": list(group.tensors)} for group in groups]
        self._adamw = torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay, fused=True)

    def gradient_norm(self) -> float:
        """Norm of the gradient that lies at the tensors."""
        return float(torch.nn.utils.get_total_norm(self._gradients()))

    def step(self, learning_rate: float, gradient_norm: float) -> None:
        """Clips the gradient, whose norm is known, and takes a step; the gradient is gone then."""
        if 0 < self._max_grad_norm < gradient_norm:
            torch._foreach_mul_(self._gradients(), self._max_grad_norm / gradient_norm)
        for group, factor in zip(self._adamw.param_groups, self._rate_factors, strict=True):
            group["lr"] = learning_rate * factor
        self._adamw.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Drops the gradient without a step."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments by name, copied to the CPU; empty before the first step."""
        return {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, tensor in enumerate(self._tensors)
            for name, value in self._adamw.state.get(tensor, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of `state()` back."""
        self._adamw.state.clear()
        for key, value in state.items():
            index, name = key.split(".", 1)
            tensor = self._tensors[int(index)]
            self._adamw.state[tensor][name] = value.clone().to(tensor.device)

    def _gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor in self._tensors if tensor.grad is not None]
