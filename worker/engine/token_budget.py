"""How many tokens are computed at once: as many as make products fast, and no more than memory bears."""

from dataclasses import dataclass

import torch

from worker.engine.families import Geometry
from worker.engine.memory import KEPT_PER_FEED_FORWARD, KEPT_PER_HIDDEN, available_memory

FASTEST_TOKENS = {"cpu": 1536, "cuda": 32_768, "mps": 4096}
"""More tokens at once are no faster. On two cores 700 to 3,000 tokens took equally long each; the others are chosen to
fill larger devices, not measured."""

USED_SHARE = 0.5
"""Share of the free memory that activations may take; the rest is for what the estimate does not count."""


@dataclass(frozen=True)
class TokenBudget:
    """Tokens of one pass, padding included.

    Attributes:
        tokens: What a part of a pass holds at most, unless one row alone is longer.
        bearable: Tokens of which activations fit into memory; a longer row needs gradient checkpointing.
    """

    tokens: int
    bearable: int


def token_budget(geometry: Geometry, device: torch.device, dtype: torch.dtype) -> TokenBudget:
    """The budget for a base on its device, by what is free there now.

    Args:
        geometry: Measurements of the base.
        device: Where it computes.
        dtype: Number format of its activations.
    """
    per_layer = KEPT_PER_HIDDEN * geometry.hidden_size + KEPT_PER_FEED_FORWARD * geometry.intermediate_size
    per_token = (geometry.num_layers + geometry.num_encoder_layers) * per_layer * dtype.itemsize
    bearable = int(USED_SHARE * free_bytes(device) / per_token)
    return TokenBudget(max(min(FASTEST_TOKENS.get(device.type, FASTEST_TOKENS["cpu"]), bearable), 1), bearable)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: of the GPU with what torch holds unused, else of the machine."""
    if device.type != "cuda":
        return available_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused
