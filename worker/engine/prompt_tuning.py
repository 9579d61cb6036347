"""Input vectors become keys and values by one differentiable forward, so that both methods share all else."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.attention import attending, recording
from worker.engine.bank import PrefixBank, SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.prefix_file import PrefixArray
from worker.engine.recipe import Method


def kv_of_vectors(base: LoadedBase, vectors: Tensor, model: PreTrainedModel | None = None) -> Tensor:
    """What every layer computes for input vectors at positions 0..P-1; gradients flow back to them.

    Because attention is causal, rows that attend to this get what they would get with the vectors in front of their
    own input. Families that scale their embeddings do so inside the embedding module, so the vectors are on the scale
    of its output, as in PEFT.

    Args:
        base: The frozen base.
        vectors: `[S, P, hidden]`.
        model: A twin of the base's model, for a thread of its own.

    Returns:
        `[S, L, 2, H_kv, P, D]` in the base's number format.

    Source: Lester et al. 2021, arXiv 2104.08691.
    """
    position_ids = torch.arange(vectors.shape[1], device=base.device).unsqueeze(0)
    model = model or base.model
    with attending(model, None, ()), recording(model) as recorded:
        model.base_model(inputs_embeds=vectors.to(base.dtype), position_ids=position_ids, use_cache=False)
    return recorded.stacked()


def bank_of(base: LoadedBase, method: Method, numbers: Tensor) -> PrefixBank:
    """The bank that attention takes, with the graph back to the trained numbers.

    Args:
        base: The frozen base.
        method: What the numbers are.
        numbers: `[S, L, 2, H_kv, P, D]` for prefix tuning, with plus 2 P columns, `[S, P, hidden]` for prompt tuning.
    """
    return PrefixBank.stack([SlotPrefix.of(method, slot) for slot in _kv(base, method, numbers)])


@torch.no_grad()
def load_bank(base: LoadedBase, prefixes: Sequence[PrefixArray]) -> PrefixBank:
    """A bank of stored prefixes for use, of either method and any length, in the base's number format.

    Args:
        base: The frozen base.
        prefixes: Slot i of the bank is the i-th.
    """
    return PrefixBank.stack([load_prefix(base, prefix) for prefix in prefixes])


@torch.no_grad()
def load_prefix(base: LoadedBase, prefix: PrefixArray) -> SlotPrefix:
    """A stored prefix for use, in the base's number format."""
    numbers = torch.from_numpy(prefix.values).to(base.device).unsqueeze(0)
    return SlotPrefix.of(prefix.method, _kv(base, prefix.method, numbers)[0].to(base.dtype))


def _kv(base: LoadedBase, method: Method, numbers: Tensor) -> Tensor:
    return kv_of_vectors(base, numbers) if method == "prompt-tuning" else numbers
