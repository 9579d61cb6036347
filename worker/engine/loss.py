"""The loss of target tokens, with logits computed only where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank, Slots
from worker.engine.batches import Batch
from worker.engine.cross_entropy import is_linear, linear_cross_entropy
from worker.engine.last_mlp import last_mlp_at

HEAD_IS_LAST = "prefix_head_is_last"
"""What is remembered of a model after its first loss: whether its logits are what its output layer gives."""


def target_loss(model: PreTrainedModel, bank: PrefixBank | None, batch: Batch) -> Tensor:
    """Summed negative log-likelihood (nats) of a batch's target tokens.

    Args:
        model: A model after `attention.install`.
        bank: Its slot 0 stands in front of every row; None is the untouched base.
        batch: On the model's device.

    Returns:
        A scalar in fp32.
    """
    slots = [NO_PREFIX if bank is None else 0] * len(batch.input_ids)
    with attending(model, bank, slots):
        return target_nll(model, bank, batch, slots).sum()


def target_nll(model: PreTrainedModel, bank: PrefixBank | None, batch: Batch, slots: Slots) -> Tensor:
    """Negative log-likelihood (nats) of each target token, within an `attending` block that the caller opened.

    Backward belongs inside the same block only with gradient checkpointing; `update` does so.

    Args:
        model: A model after `attention.install`.
        bank: The prefixes; None is the untouched base.
        batch: B rows on the model's device.
        slots: Prefix of each of the B rows.

    Returns:
        `[N]` in fp32, in the order of `batch.labels`.
    """
    inputs = {"input_ids": batch.input_ids, **_further_inputs(bank, batch, slots), "use_cache": False}
    head = model.get_output_embeddings()
    if not is_linear(head) or getattr(model, HEAD_IS_LAST, True) is False:
        with head_at(model, batch.rows, batch.columns):
            logits = model(**inputs).logits
        return nn.functional.cross_entropy(logits[0].float(), batch.labels, reduction="none")
    is_known = hasattr(model, HEAD_IS_LAST)
    hidden = hidden_at(model, batch.rows, batch.columns, num_logits=0 if is_known else 1)
    with last_mlp_at(model, batch.rows, batch.columns), hidden as caught:
        first = model(**inputs).logits
    if not is_known:
        object.__setattr__(model, HEAD_IS_LAST, _is_last(head, caught[0], first))
        if not getattr(model, HEAD_IS_LAST):
            return target_nll(model, bank, batch, slots)
    return linear_cross_entropy(caught[0], cast(nn.Linear, head), batch.labels)


def _further_inputs(bank: PrefixBank | None, batch: Batch, slots: Slots) -> dict[str, Tensor | None]:
    """The padding mask of an encoder. Without one, padding on the right is where causal attention hides it anyway."""
    if batch.decoder_input_ids is not None:
        return {"attention_mask": batch.attention_mask, "decoder_input_ids": batch.decoder_input_ids}
    starts = bank.row_lengths(slots) if bank is not None else (0,)
    # One row of positions for all where they agree, so that families compute their rotations once.
    starts = starts[:1] if len(set(starts)) == 1 else starts
    device = batch.input_ids.device
    positions = torch.arange(batch.input_ids.shape[1], device=device) + torch.tensor(starts, device=device)[:, None]
    return {"position_ids": positions}


def _is_last(head: nn.Module, hidden: Tensor, first: Tensor) -> bool:
    """Whether a model gives out what its output layer computed, without a soft cap or a scaling behind it."""
    with torch.no_grad():
        return torch.equal(head(hidden[:1].unsqueeze(0)), first)


@contextmanager
def hidden_at(model: PreTrainedModel, rows: Tensor, columns: Tensor, num_logits: int) -> Iterator[list[Tensor]]:
    """Catches what the output layer is given at N places, `[N, C]`, and leaves it next to nothing to compute.

    Args:
        model: A causal language model.
        rows: `[N]` row of each place.
        columns: `[N]` column of each place.
        num_logits: Places of which the model computes logits, from the first on; even one reads the whole layer.
    """
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        caught.append(args[0][rows, columns])
        return (caught[0][:num_logits].detach().unsqueeze(0),)

    handle = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


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
