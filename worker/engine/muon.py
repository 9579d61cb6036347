"""Muon: momentum whose matrices are made orthogonal before each step, so that no few directions take all of it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.9
ITERATIONS = 6
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that drives singular values towards 1, chosen by its author for a steep slope at 0."""


class Muon(torch.optim.Optimizer):
    """Steps on stacks of matrices `[..., rows, columns]`, each made orthogonal for itself.

    The elements of an update have a root mean square near 1 before the learning rate, as AdamW's have, so both take
    rates of one scale.

    Args:
        groups: As for any optimiser of torch.
        weight_decay: Decoupled decay.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes one step on the gradients that lie at the tensors."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(tensor)
                state["momentum"].mul_(MOMENTUM).add_(tensor.grad)
                # Nesterov: looks ahead to where the momentum will have carried the next gradient.
                ahead = tensor.grad + MOMENTUM * state["momentum"]
                tensor.mul_(1 - group["lr"] * group["weight_decay"])
                tensor.sub_(group["lr"] * orthogonalised(ahead))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix with its singular values brought near one value, scaled to elements of root mean square near 1.

    Args:
        matrices: `[..., rows, columns]`, fp32.

    Returns:
        Of the same shape; a matrix of zeros stays one.
    """
    rows, columns = matrices.shape[-2:]
    wide = matrices.mT if rows > columns else matrices
    wide = wide / wide.flatten(-2).norm(dim=-1)[..., None, None].clamp(min=1e-12)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = linear * wide + (cubic * gram + quintic * gram @ gram) @ wide
    update: Tensor = (wide.mT if rows > columns else wide) * float(max(rows, columns)) ** 0.5
    return update
