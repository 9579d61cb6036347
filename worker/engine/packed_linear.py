"""Linear layers of a frozen base on a CPU, their weights rearranged once instead of in every product.

oneDNN multiplies weights in blocks of its own order and makes that order anew in each product; with one or a few rows
that takes longer than the product itself. The rearranged copies are made when they are first needed, one for products
forward and one for the backward pass, and are shared by all twins of a model.
"""

import logging
import platform
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worker.engine.memory import total_memory

logger = logging.getLogger(__name__)

MIN_WEIGHTS = 1 << 16
"""Smaller layers gain nothing."""

ROWS_HINT = 16
"""Rows that the order is chosen for; with 1 to 800 rows it was as fast as an order chosen for them."""

MAX_SHARE = 1 / 16
"""Share of the machine's memory that one set of copies may take; larger bases stay as they are."""

SMALL_BYTES = 64 << 20
"""Copies of at most this size serve trainings in bfloat16 too: larger layers gain 2 % there, smaller ones 8 %."""

PROBE_SHAPE = (32, 64)


class PackedWeights:
    """The rearranged copies of a layer's weights; twins of the layer share them.

    Args:
        weight: `[out, in]`, never changed.
        bias: `[out]`, or None.
        for_answers_alone: Whether copies are made and used in inference mode only, so that trainings save their memory.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, for_answers_alone: bool = False) -> None:
        self._weight, self._bias = weight, bias
        self.dtype, self.for_answers_alone = weight.dtype, for_answers_alone
        self._forward: Tensor | None = None
        self._backward: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedWeights":
        return self

    def times(self, inputs: Tensor) -> Tensor:
        """`x Wᵀ + b` of `[..., in]`."""
        if self._forward is None:
            self._forward = _packed(self._weight)
        return _product(inputs, self._forward, self._bias)

    def back(self, gradient: Tensor) -> Tensor:
        """`g W` of `[..., out]`."""
        if self._backward is None:
            self._backward = _packed(self._weight.t().contiguous())
        return _product(gradient, self._backward)


def take_over_linears(model: nn.Module) -> int:
    """Lets the linear layers of a model on a CPU multiply rearranged weights; others stay as they are.

    Args:
        model: With frozen weights.

    Returns:
        How many layers were taken over.
    """
    layers = [module for module in model.modules() if _can_take(module)]
    weights = [cast(Tensor, layer.weight) for layer in layers]
    copied_bytes = sum(weight.nbytes for weight in weights)
    if copied_bytes > MAX_SHARE * total_memory() or not all(map(is_supported, {weight.dtype for weight in weights})):
        return 0
    for layer, weight in zip(layers, weights, strict=True):
        is_costly = weight.dtype == torch.bfloat16 and copied_bytes > SMALL_BYTES
        packed = PackedWeights(weight, cast(Tensor | None, layer.bias), for_answers_alone=is_costly)
        layer.forward = partial(_forward, packed, layer.forward)
    logger.debug("%d linear layers multiply rearranged weights of %d MB", len(layers), copied_bytes >> 20)
    return len(layers)


@cache
def is_supported(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies rearranged weights of a number format, and gets the right numbers."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch._C._has_mkldnn:
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(PROBE_SHAPE, generator=generator).to(dtype)
    inputs = torch.randn(3, PROBE_SHAPE[1], generator=generator).to(dtype)
    try:
        found = _product(inputs, _packed(weight))
    except (AttributeError, RuntimeError) as error:
        logger.info("weights in %s are not rearranged: %s", dtype, error)
        return False
    right = nn.functional.linear(inputs, weight)
    return torch.allclose(found.float(), right.float(), rtol=0.02, atol=0.02)


def _can_take(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    is_known = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return is_known and not weight.requires_grad and weight.numel() >= MIN_WEIGHTS


def _forward(packed: PackedWeights, stock: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    is_left_out = packed.for_answers_alone and not torch.is_inference_mode_enabled()
    if is_left_out or inputs.dtype != packed.dtype or not inputs.numel():
        return stock(inputs)
    output: Tensor = _Product.apply(inputs, packed)  # type: ignore[no-untyped-call]
    return output


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: PackedWeights) -> Tensor:
        ctx.packed = packed
        return packed.times(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.packed.back(gradient), None


@torch.inference_mode(False)
@torch.no_grad()
def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
    return packed


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return output
