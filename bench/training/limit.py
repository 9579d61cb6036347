"""How near a training comes to what the machine can do: FLOPs of the model over the measured rate of products."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from bench.training.rows import TokenRow

FLOPS_PER_PARAMETER = 4
"""Two of the forward pass and two of the backward pass to the inputs; frozen weights need no gradient."""

SIZE = 2048
REPEATS = 12


def matrix_rate(dtype: torch.dtype, device: torch.device, clock: Callable[[], float]) -> float:
    """Best rate of a square product of matrices, in FLOPs per second."""
    left = torch.randn(SIZE, SIZE, device=device).to(dtype)
    right = torch.randn(SIZE, SIZE, device=device).to(dtype)
    best = float("inf")
    for _ in range(REPEATS):
        started = clock()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - started)
    return 2 * SIZE**3 / best


def flops_per_token(model: PreTrainedModel, rows: list[TokenRow]) -> float:
    """FLOPs that one real token needs, averaged over rows.

    Counted are the weights of the layers for every token and the output layer for target tokens alone. The products
    inside attention and everything that is no product are left out, so the share that follows is on the low side.
    """
    head = model.get_output_embeddings().weight.numel()
    embeddings = model.get_input_embeddings().weight.numel()
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    body = sum(parameter.numel() for parameter in model.parameters()) - embeddings - (0 if is_tied else head)
    targets = sum(len(row.target_ids) for row in rows) / sum(len(row) for row in rows)
    return float(FLOPS_PER_PARAMETER * (body + head * targets))
