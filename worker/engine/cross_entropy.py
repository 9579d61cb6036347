"""Cross entropy of a frozen output layer, without logits of all targets standing in memory at once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK_NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits of a chunk by kind of device: 64 MB in fp32 on a CPU, where larger products are no faster; 512 MB on CUDA."""

SMALLEST_SHARE = 1e-30
"""Below about 1e-38 numbers in fp32 lose their digits, and then are zero, whose logarithm is none."""


def is_linear(head: nn.Module) -> bool:
    """Whether an output layer is a plain product with frozen weights in a floating format."""
    weight = getattr(head, "weight", None)
    return type(head) is nn.Linear and weight is not None and weight.is_floating_point() and not weight.requires_grad


def linear_cross_entropy(hidden: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of each label under `softmax(head(hidden))`.

    The gradient for `hidden` is computed in the forward pass, chunk by chunk, because every loss depends on its own
    row alone: the backward pass multiplies each row by a number.

    Args:
        hidden: `[N, C]`.
        head: The frozen output layer, `[V, C]` with or without a bias.
        labels: `[N]`.

    Returns:
        `[N]` in fp32.

    Source: Wijmans et al. 2024, arXiv 2411.09009, for the idea; without their kernels and filtering.
    """
    nll: Tensor = _LinearCrossEntropy.apply(hidden, head.weight, head.bias, labels)  # type: ignore[no-untyped-call]
    return nll


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Rows of logits that are computed at once."""
    return max(CHUNK_NUMBERS.get(device.type, CHUNK_NUMBERS["cpu"]) // vocab_size, 1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        nll = torch.empty(len(labels), device=hidden.device)
        of_hidden = torch.empty_like(hidden) if needs_gradient else None
        size = chunk_rows(len(weight), hidden.device)
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            logits = nn.functional.linear(hidden[chunk], weight, bias)
            of_label = labels[chunk, None]
            # One kernel that keeps a row in the cache, where each step of its own would read all rows again.
            shares = torch.softmax(logits, dim=-1, dtype=torch.float32)
            nll[chunk] = _nll(logits, shares.gather(1, of_label).squeeze(1), of_label)
            if of_hidden is not None:
                # The gradient of a row's loss for its logits: probabilities, less one at the label.
                shares.scatter_add_(1, of_label, torch.full_like(of_label, -1, dtype=shares.dtype))
                of_hidden[chunk] = shares.to(weight.dtype) @ weight
        ctx.save_for_backward(of_hidden)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * gradient[:, None].to(of_hidden.dtype), None, None, None


def _nll(logits: Tensor, share: Tensor, labels: Tensor) -> Tensor:
    """`[N]` losses of labels `[N, 1]` whose probabilities are `[N]`; one too small for its digits is computed anew."""
    nll = -share.log()
    rare = share < SMALLEST_SHARE
    if rare.any():
        whole = logits[rare].float()
        nll[rare] = whole.logsumexp(dim=-1) - whole.gather(1, labels[rare]).squeeze(1)
    return nll
