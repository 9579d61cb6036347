"""The loss of target tokens, with logits computed only where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.batches import Batch


def target_loss(model: PreTrainedModel, bank: PrefixBank | None, batch: Batch) -> Tensor:
    """Summed negative log-likelihood (nats) of a batch's target tokens.

    Backward belongs inside the same `attending` block only with gradient checkpointing; `update` does so.

    Args:
        model: A model after `attention.install`.
        bank: Its slot 0 stands in front of every row; None is the untouched base.
        batch: On the model's device.

    Returns:
        A scalar in fp32.
    """
    slots = row_slots(bank, batch)
    with attending(model, bank, slots):
        return forward_loss(model, bank, batch)


def row_slots(bank: PrefixBank | None, batch: Batch) -> list[int]:
    """The same slot for every row of a batch."""
    return [NO_PREFIX if bank is None else 0] * len(batch.input_ids)


def forward_loss(model: PreTrainedModel, bank: PrefixBank | None, batch: Batch) -> Tensor:
    """`target_loss` within an `attending` block that the caller opened."""
    start = 0 if bank is None else bank.lengths[0]
    position_ids = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).unsqueeze(0) + start
    # No padding mask: padding stands on the right, where causal attention hides it from every real token.
    with head_at(model, batch.rows, batch.columns):
        logits = model(input_ids=batch.input_ids, position_ids=position_ids, use_cache=False).logits
    return nn.functional.cross_entropy(logits[0].float(), batch.labels, reduction="sum")


@contextmanager
def head_at(model: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Lets the model compute logits `[1, N, vocabulary]` at N chosen places only.

    The choice is made in front of the output layer, so that whatever a family does to its logits (soft cap, scaling)
    is still done.

    Args:
        model: A causal language model.
        rows: `[N]` row of each place.
        columns: `[N]` column of each place.
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        return (hidden[rows, columns].unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
