"""RMSNorm with frozen weights: half the memory for the backward pass, which takes half as many passes over the data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROBE_ROWS = 3


def take_over_norms(model: nn.Module) -> int:
    """Replaces what the model's RMSNorm layers do where a gradient is wanted; without one they stay as they are.

    Families differ in what they call RMSNorm (a weight around zero, another order of rounding), so each layer is asked:
    only where it gives bit for bit what is computed here, it is replaced.

    Args:
        model: With frozen weights.

    Returns:
        How many layers were replaced.
    """
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    taken = [module for module in norms if "forward" not in vars(module) and _is_as_here(module)]
    for module in taken:
        module.forward = partial(_forward, module, module.forward)
    return len(taken)


def _forward(module: nn.Module, stock: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and hidden.requires_grad):
        return stock(hidden)
    output: Tensor = _FrozenRMSNorm.apply(hidden, module.weight, _epsilon(module))  # type: ignore[no-untyped-call]
    return output


class _FrozenRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        normal = hidden.float()
        scale = _inverse_root(normal, epsilon)
        ctx.save_for_backward(hidden, weight, scale)
        # In place but where the input is fp32 already, and what looks like a copy is the input itself.
        normal = normal * scale if hidden.dtype == normal.dtype else normal.mul_(scale)
        return _weighted(normal, weight, hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight, scale = ctx.saved_tensors
        of_normal = (gradient * weight).float()
        whole = hidden.float()  # all that follows is in fp32, and formats that differ within a product are slow
        # What points along the row changes its length, which the norm takes away again.
        along = torch.linalg.vecdot(of_normal, whole).unsqueeze(-1).mul_(scale.square() / -whole.shape[-1])
        of_hidden = of_normal.addcmul_(whole, along).mul_(scale)
        return of_hidden.to(hidden.dtype), None, None


def _inverse_root(hidden: Tensor, epsilon: float) -> Tensor:
    return torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)


def _weighted(normal: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight * normal.to(dtype)


def _epsilon(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)))


@torch.no_grad()
def _is_as_here(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.requires_grad or weight.ndim != 1:
        return False
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(PROBE_ROWS, len(weight), generator=generator).to(weight)
    found = _weighted(probe.float() * _inverse_root(probe.float(), _epsilon(module)), weight, probe.dtype)
    return torch.equal(module(probe), found)
