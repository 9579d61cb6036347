"""Attention with prefixes in front: registered with transformers, so that any supported model calls it by itself.

It knows no training and no generation. Outside of `attending` a model computes what it computed before `install`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from worker.engine.bank import NO_PREFIX, PrefixBank, Slots
from worker.engine.dense_attention import attend, can_attend, causal_mask
from worker.engine.encoder_decoder import number_attentions
from worker.engine.errors import UnsupportedModelError
from worker.engine.prefix_mask import PrefixMask
from worker.engine.relative_bias import RelativeBias

PREFIX_SDPA = "prefix_sdpa"
PREFIX_EAGER = "prefix_eager"
"""Names under which transformers finds the functions below; eager for families that sdpa cannot serve."""


class ActivePrefixes:
    """The prefixes of one batch, ready for every layer to take.

    Args:
        bank: Slots to choose from.
        slots: Slot of each of the B rows.
    """

    def __init__(self, bank: PrefixBank, slots: Slots) -> None:
        self.slots = tuple(int(slot) for slot in slots)
        self.lengths = bank.row_lengths(self.slots)
        self.num_columns = max(self.lengths, default=0)
        # Unbinding once makes the backward pass stack the layers' gradients, not add L tensors of the whole size.
        self._layers = bank.kv[..., : self.num_columns, :].unbind(1)
        self._rows: dict[int, Tensor] = {}
        self.mask: PrefixMask | None = None
        self.relative_bias = RelativeBias(self.lengths)

    def start_forward(self, position_ids: Tensor) -> None:
        """Takes the positions of the tokens that are about to be computed, `[B or 1, T]`."""
        self.mask = PrefixMask(self.lengths, position_ids)

    def start_without_positions(self, device: torch.device) -> None:
        """For encoder-decoders, where a prefix takes no position and every token sees all of it."""
        self.start_forward(torch.zeros(1, 1, dtype=torch.long, device=device))

    def rows(self, layer_idx: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H_kv, P, D]` of a layer in the number format of `like`."""
        kept = self._rows.get(layer_idx)
        if kept is None:
            kept = self._gather(self._layers[layer_idx], like.dtype)
            if not kept.requires_grad:
                self._rows[layer_idx] = kept
        return cast(tuple[Tensor, Tensor], kept.unbind(1))

    def _gather(self, layer: Tensor, dtype: torch.dtype) -> Tensor:
        first = self.slots[0]
        if all(slot == first for slot in self.slots):
            return layer[max(first, 0)].to(dtype).expand(len(self.slots), *layer.shape[1:])
        # A row without a prefix borrows slot 0, of which its mask shows nothing.
        return layer[torch.tensor(self.slots, device=layer.device).clamp(min=0)].to(dtype)


@dataclass
class RecordedKV:
    """Keys and values that a forward computed, by layer, as attention saw them (after rotary embedding)."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def stacked(self) -> Tensor:
        """`[B, L, 2, H_kv, T, D]` of the last forward."""
        return torch.stack([torch.stack(self.layers[index], dim=1) for index in sorted(self.layers)], dim=1)


@dataclass
class Attachment:
    """What the attention function finds at each module of a model: the state of that one model."""

    active: ActivePrefixes | None = None
    recorded: RecordedKV | None = None
    has_positions: bool = True


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
        return
    for module in {model, model.base_model}:
        module.register_forward_pre_hook(_note_positions, with_kwargs=True)


@contextmanager
def attending(model: PreTrainedModel, bank: PrefixBank | None, slots: Slots) -> Iterator[None]:
    """Puts each row's prefix in front of its keys and values in every forward within.

    Every forward takes explicit `position_ids` that go on where the prefix ends (see `bank.position_ids_for`) and an
    attention mask of its own tokens only; a cache holds its own tokens only. With gradient checkpointing the
    backward pass belongs inside too, and one forward to a block, because layers are computed again then.

    Args:
        model: A model after `install`.
        bank: Slots to choose from; None computes the untouched base.
        slots: Slot of each row, or `NO_PREFIX`.
    """
    attachment = _attachment(model)
    before = attachment.active
    has_prefix = bank is not None and any(slot != NO_PREFIX for slot in slots)
    attachment.active = ActivePrefixes(bank, slots) if bank is not None and has_prefix else None
    if attachment.active is not None and not attachment.has_positions:
        attachment.active.start_without_positions(model.device)
    try:
        yield
    finally:
        attachment.active = before


@contextmanager
def recording(model: PreTrainedModel) -> Iterator[RecordedKV]:
    """Collects the keys and values that each layer computes in the last forward within, with their graph."""
    attachment = _attachment(model)
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
    mask = _enter(module, key, value)
    if mask is not None:
        shape = (query.shape[2], key.shape[2])
        key, value = _prepend(module, key, value)
        attention_mask = mask.extend(attention_mask, shape, kwargs.get("sliding_window"), query.dtype)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        floor = torch.finfo(query.dtype).min
        attention_mask = torch.where(attention_mask, torch.zeros((), dtype=query.dtype, device=query.device), floor)
    eager_forward = sys.modules[type(module).__module__].eager_attention_forward
    output: tuple[Tensor, Tensor | None] = eager_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def _enter(module: nn.Module, key: Tensor, value: Tensor) -> PrefixMask | None:
    """Records what is wanted, and tells whether (and how) prefixes stand in front of this batch."""
    attachment = _attachment(module)
    if attachment.recorded is not None:
        attachment.recorded.layers[_layer_idx(module)] = (key, value)
    active = attachment.active
    if active is None:
        return None
    if len(active.slots) != key.shape[0]:
        raise ValueError(f"the batch has {key.shape[0]} rows and {len(active.slots)} slots; expected one slot a row")
    if active.mask is None:
        raise ValueError("attention was called without its model; expected a call of the model or its base_model")
    return active.mask


def _prepend(module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    active = _attachment(module).active
    assert active is not None
    prefix_key, prefix_value = active.rows(_layer_idx(module), like=key)
    return torch.cat([prefix_key, key], dim=2), torch.cat([prefix_value, value], dim=2)


def _attachment(module: nn.Module) -> Attachment:
    return cast(Attachment, module.prefix_attachment)


def _layer_idx(module: nn.Module) -> int:
    return cast(int, module.prefix_index if hasattr(module, "prefix_index") else module.layer_idx)


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """What a missing mask means, read as transformers' own function reads it."""
    told = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if told is None else told)


def _extend_bias(module: nn.Module, bias: Tensor, shape: tuple[int, int]) -> Tensor:
    active = _attachment(module).active
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
    active = _attachment(module).active
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
