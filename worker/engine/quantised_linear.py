"""Linear layers whose weights are held in 8 or 4 bit by bitsandbytes; knows no model.

bitsandbytes' own layers serve other ends: in 8 bit they round the activations too, by amounts that depend on the other
rows of the batch, and in 4 bit they repack the weights in use. Here a weight is made whole for each product, so that a
row gets what it gets alone, the weights stay as they are, and the gradient is that of the dequantised model.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from worker.engine.errors import UnsupportedPrecisionError

BLOCK_SIZE = 64
"""Weights that share a scale in 4 bit."""


class QuantisedLinear(nn.Module):
    """`y = x Wᵀ + b` with a frozen W in few bits.

    Args:
        packed: W as int8 `[out, in]`, or two weights a byte in the NF4 format.
        scales: Largest absolute value of each row (8 bit) or block (4 bit).
        shape: `[out, in]` of W.
        bias: `[out]`, or None.

    Source: Dettmers et al. 2022, arXiv 2208.07339 (8 bit), and 2023, arXiv 2305.14314 (NF4).
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, packed: Tensor, scales: Tensor, shape: tuple[int, int], bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.register_buffer("packed", packed.detach())
        self.register_buffer("scales", scales.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def num_weights(self) -> int:
        """Numbers of W and b."""
        num_biases = 0 if self.bias is None else self.out_features
        return self.out_features * self.in_features + num_biases

    def weight_as(self, dtype: torch.dtype) -> Tensor:
        """W `[out, in]` in a number format."""
        if self.packed.dtype == torch.int8:
            # In fp32 first: in bfloat16 the scale of a whole row would be off by up to 0.4 %.
            return (self.packed * (self.scales / 127).unsqueeze(1)).to(dtype)
        from bitsandbytes.functional import QuantState, dequantize_4bit

        # Block by block: rows of other lengths than a block's are read wrongly by bitsandbytes' kernel for CPUs.
        shape = torch.Size((len(self.scales), BLOCK_SIZE))
        state = QuantState(self.scales, shape, blocksize=BLOCK_SIZE, quant_type="nf4", dtype=dtype)
        blocks: Tensor = dequantize_4bit(self.packed, state)
        return blocks.reshape(self.out_features, self.in_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        output: Tensor = _Product.apply(inputs, self)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(output.dtype)


class _Product(torch.autograd.Function):
    """A product that keeps no whole weight for the backward pass, but makes it anew there."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(inputs, layer.weight_as(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight_as(gradient.dtype), None


def take_over(model: nn.Module) -> None:
    """Puts ours in the place of every quantised layer that bitsandbytes made when the model was loaded.

    Raises:
        UnsupportedPrecisionError: A layer cannot be held in 4 bit.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear8bitLt):
                scales, packed = child.weight.SCB, child.weight.data
            elif isinstance(child, Linear4bit):
                scales, packed = child.weight.quant_state.absmax, child.weight.data
            else:
                continue
            shape = (child.out_features, child.in_features)
            if packed.dtype != torch.int8 and math.prod(shape) % BLOCK_SIZE:
                raise UnsupportedPrecisionError(
                    f"The layer {name!r} of this base has {math.prod(shape)} weights; expected a multiple of "
                    f"{BLOCK_SIZE}, as many as share a scale in 4 bit. Choose int8."
                )
            setattr(module, name, QuantisedLinear(packed, scales, shape, child.bias))


def num_weights(model: nn.Module) -> int:
    """Numbers of a model, tied ones once, those in few bits as what they stand for."""
    quantised = sum(module.num_weights for module in model.modules() if isinstance(module, QuantisedLinear))
    return quantised + sum(parameter.numel() for parameter in model.parameters())
