"""Attention with prefixes in front: registered with transformers, so that any supported model calls it by itself.

It knows no training and no generation. Outside of `attending` a model computes what it computed before `install`.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.engine.attachment import ActivePrefixes, Attachment, RecordedKV, attachment_of, place_in_bank
from worker.engine.bank import NO_PREFIX, PrefixBank, Slots
from worker.engine.dense_attention import attend, can_attend, causal_mask
from worker.engine.encoder_decoder import number_attentions
from worker.engine.errors import UnsupportedModelError
from worker.engine.outside import add_mapped
from worker.engine.prefix_mask import PrefixMask
from worker.engine.step_attention import Step, follow_positions

PREFIX_SDPA = "prefix_sdpa"
PREFIX_EAGER = "prefix_eager"
"""Names under which transformers finds the functions below; eager for families that sdpa cannot serve."""


def install(model: PreTrainedModel) -> None:
    """Lets the model's attention take prefixes; its results stay as they are until `attending`.

    Raises:
        UnsupportedModelError: The family's attention does not go through transformers' interface.
    """
    if hasattr(model, "prefix_attachment"):
        return
    name = PREFIX_EAGER if _needs_eager(model) else PREFIX_SDPA
    AttentionInterface.register(PREFIX_SDPA, prefix_sdpa_forward)
    AttentionInterface.register(PREFIX_EAGER, prefix_eager_forward)
    AttentionMaskInterface.register(PREFIX_SDPA, prefix_sdpa_mask)
    AttentionMaskInterface.register(PREFIX_EAGER, prefix_eager_mask)
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise UnsupportedModelError(
            f"Models of the family {model.config.model_type!r} cannot take a prefix, because their attention cannot be "
            "replaced. Choose a base model of a supported family, such as Llama or Qwen 3."
        )
    attachment = Attachment(has_positions=not model.config.is_encoder_decoder)
    for module in model.modules():
        # Around nn.Module's own __setattr__, which keeps parameters and submodules only under typing.
        object.__setattr__(module, "prefix_attachment", attachment)
    if model.config.is_encoder_decoder:
        number_attentions(model)
        follow_positions(model)
        return
    for module in {model, model.base_model}:
        module.register_forward_pre_hook(_note_positions, with_kwargs=True)


@contextmanager
def attending(
    model: PreTrainedModel, bank: PrefixBank | None, slots: Slots, strengths: Sequence[float] | None = None
) -> Iterator[None]:
    """Puts each row's prefix in front of its keys and values in every forward within.

    Every forward takes explicit `position_ids` that go on where the prefix ends (see `bank.position_ids_for`) and an
    attention mask of its own tokens only; a cache holds its own tokens only. With gradient checkpointing the
    backward pass belongs inside too, and one forward to a block, because layers are computed again then.

    Args:
        model: A model after `install`.
        bank: Slots to choose from; None computes the untouched base.
        slots: Slot of each row, or `NO_PREFIX`.
        strengths: How much of its prefix each row attends to, above 0 and up to 1; None is all of it.
    """
    attachment = attachment_of(model)
    before = attachment.active
    has_prefix = bank is not None and any(slot != NO_PREFIX for slot in slots)
    weaker = tuple(strengths) if strengths is not None and any(strength != 1 for strength in strengths) else None
    attachment.active = ActivePrefixes(bank, slots, weaker) if bank is not None and has_prefix else None
    if attachment.active is not None and not attachment.has_positions:
        attachment.active.start_without_positions(model.device)
    try:
        yield
    finally:
        attachment.active = before


@contextmanager
def stepping(model: PreTrainedModel, step: Step) -> Iterator[None]:
    """Lets a forward within add one piece to each running row, see `continuation`; it gets a mask of four dimensions,
    which nobody reads."""
    attachment = attachment_of(model)
    attachment.step = step
    try:
        yield
    finally:
        attachment.step = None


@contextmanager
def recording(model: PreTrainedModel) -> Iterator[RecordedKV]:
    """Collects the keys and values that each layer computes in the last forward within, with their graph."""
    attachment = attachment_of(model)
    before = attachment.recorded
    attachment.recorded = RecordedKV()
    try:
        yield attachment.recorded
    finally:
        attachment.recorded = before


def prefix_sdpa_mask(q_length: int, kv_length: int, allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """transformers' mask for sdpa, left out (None) only where it means just one thing: causal, or open to one query."""
    can_skip = allow_is_causal_skip and q_length in (1, kv_length)
    mask: Tensor | None = sdpa_mask(q_length=q_length, kv_length=kv_length, allow_is_causal_skip=can_skip, **kwargs)
    return mask


def prefix_eager_mask(allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """transformers' mask for sdpa, never left out, because eager functions do not know what is causal."""
    mask: Tensor | None = sdpa_mask(allow_is_causal_skip=False, **kwargs)
    return mask


def prefix_sdpa_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot product attention with the rows' prefixes in front.

    Args:
        module: The layer's attention; its place in the bank is its `layer_idx`, or what `install` numbered it.
        query: `[B, H, T, D]`.
        key: `[B, H_kv, K, D]`, cached tokens included.
        value: Like `key`.
        attention_mask: `[B, 1, T, K]`; None is causal (T = K), or open (T = 1, an encoder, cross-attention).

    Returns:
        `[B, T, H, D]`, and None for the weights.
    """
    step = attachment_of(module).step
    if step is not None:
        return step.attend(module, query, key, value, kwargs), None
    output, weights = _sdpa(module, query, key, value, attention_mask, kwargs)
    return _with_outside(module, query, output), weights


def _sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """What the softmax gives."""
    mask = _enter(module, key, value)
    if mask is not None:
        shape = (query.shape[2], key.shape[2])
        window = kwargs.get("sliding_window")
        is_causal = shape[0] > 1 and _is_causal(module, kwargs)
        key, value = _prepend(module, key, value)
        is_plain = attention_mask is None and mask.is_all_visible(window)
        bias = kwargs.get("position_bias")
        if is_plain and is_causal and bias is None and query.is_cuda and shape[0] == shape[1]:
            return _lower_right(module, query, key, value, kwargs)
        if not is_plain or is_causal:
            attention_mask = mask.extend(attention_mask, shape, window, query.dtype, is_causal=is_causal)
        if bias is not None:
            kwargs["position_bias"] = _extend_bias(module, bias, shape)
    elif attention_mask is None and _is_causal(module, kwargs):
        attention_mask = causal_mask(query, key)
    if attention_mask is not None and can_attend(query, attention_mask, kwargs):
        return attend(query, key, value, attention_mask, kwargs.get("scaling")), None
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def prefix_eager_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The family's own eager attention (soft cap, sinks) with the rows' prefixes in front; shapes as for sdpa."""
    step = attachment_of(module).step
    if step is not None:
        return step.attend(module, query, key, value, kwargs, is_eager=True), None
    mask = _enter(module, key, value)
    if mask is not None:
        shape = (query.shape[2], key.shape[2])
        key, value = _prepend(module, key, value)
        attention_mask = mask.extend(attention_mask, shape, kwargs.get("sliding_window"), query.dtype)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        floor = torch.finfo(query.dtype).min
        attention_mask = torch.where(attention_mask, torch.zeros((), dtype=query.dtype, device=query.device), floor)
    eager_forward = sys.modules[type(module).__module__].eager_attention_forward
    output, weights = eager_forward(module, query, key, value, attention_mask, **kwargs)
    return _with_outside(module, query, output), weights


def _with_outside(module: nn.Module, query: Tensor, output: Tensor) -> Tensor:
    """Adds what the rows' prefixes have outside the softmax, if any."""
    active = attachment_of(module).active
    maps = None if active is None else active.maps(place_in_bank(module), like=query)
    return output if maps is None else add_mapped(output, query, maps)


def _enter(module: nn.Module, key: Tensor, value: Tensor) -> PrefixMask | None:
    """Records what is wanted, and tells whether (and how) prefixes stand in front of this batch."""
    attachment = attachment_of(module)
    if attachment.recorded is not None:
        attachment.recorded.layers[place_in_bank(module)] = (key, value)
    active = attachment.active
    if active is None:
        return None
    if len(active.slots) != key.shape[0]:
        raise ValueError(f"the batch has {key.shape[0]} rows and {len(active.slots)} slots; expected one slot a row")
    if active.mask is None:
        raise ValueError("attention was called without its model; expected a call of the model or its base_model")
    return active.mask


def _prepend(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    active = attachment_of(module).active
    assert active is not None
    prefix_key, prefix_value = active.rows(place_in_bank(module), like=key)
    return torch.cat([prefix_key, key], dim=2), torch.cat([prefix_value, value], dim=2)


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """What a missing mask means, read as transformers' own function reads it."""
    told = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if told is None else told)


def _extend_bias(module: nn.Module, bias: Tensor, shape: tuple[int, int]) -> Tensor:
    active = attachment_of(module).active
    assert active is not None
    return active.relative_bias.extend(bias, shape, cast(nn.Module | None, getattr(module, "prefix_bias", None)))


def _lower_right(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, kwargs: dict[str, Any]
) -> tuple[Tensor, None]:
    """Causal attention aligned at the end of the keys: on CUDA it stays on flash kernels, which take no mask."""
    groups = int(getattr(module, "num_key_value_groups", 1))
    output = nn.functional.scaled_dot_product_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        attn_mask=causal_lower_right(query.shape[2], key.shape[2]),
        dropout_p=kwargs.get("dropout", 0.0),
        scale=kwargs.get("scaling"),
    )
    return output.transpose(1, 2).contiguous(), None


def _note_positions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Runs before each forward of the model: prefixes need to know where the tokens stand."""
    active = attachment_of(module).active
    if active is None:
        return
    position_ids = kwargs.get("position_ids")
    if position_ids is None:
        raise ValueError(
            "position_ids are missing; expected those of bank.position_ids_for, because prefixes come first"
        )
    active.start_forward(position_ids)


def _needs_eager(model: PreTrainedModel) -> bool:
    return not model._supports_sdpa or getattr(model.config, "attn_logit_softcapping", None) is not None
