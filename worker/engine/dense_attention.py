"""Attention on a CPU: as a few large products of matrices in bfloat16, by torch's flash kernel in fp32.

torch's flash kernel for CPUs gains little from bfloat16 instructions, products of matrices do: forward and backward
took a quarter of its time at 95 queries and 159 keys, and less than half at 1,024 queries (one core, AVX-512 BF16).
Knows no prefix and no model.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HIDDEN = -1e30
"""Added to scores that a query must not see; finite, so that a query that sees nothing gives numbers."""

KEY_MULTIPLE = 32
"""Keys are padded to a multiple of this: softmax in bfloat16 takes up to twice as long over odd rests."""

MAX_PRODUCT_KEYS = 2048
"""With more keys the scores of all heads would take too much memory; flash then."""

MIN_SINGLE_KEYS = 2000
"""Keys of all rows and heads from which on single queries are answered by products: at 3,600 in two thirds of flash's
time, at 7,200 in half (one core, AVX-512 BF16)."""

MAX_PIECE_SCORES = 1 << 20
"""Scores of a piece of a prompt up to which it is read by products: half of flash's time at 55 queries and 119 keys.
Larger blocks are taken from the system and given back each time, which costs more than is gained."""

MAX_KEPT_KEYS = 512
"""With more keys the weights are computed again in the backward pass, where keeping them would double its memory."""


def causal_mask(query: Tensor, key: Tensor) -> Tensor | None:
    """`[1, 1, T, T]` where a missing mask that means causal costs speed: in bfloat16 on a CPU, else None."""
    length = query.shape[2]
    is_worth_it = query.device.type == "cpu" and query.dtype == torch.bfloat16 and 1 < length == key.shape[2]
    return torch.ones(1, 1, length, length, dtype=torch.bool).tril() if is_worth_it else None


def can_attend(query: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether `attend` computes what is asked: several queries on a CPU, a boolean mask that is the same for all heads.

    Args:
        query: `[B, H, T, D]`.
        mask: As attention got it.
        kwargs: What else attention got.
    """
    asks_more = any(kwargs.get(name) for name in ("dropout", "softcap", "output_attentions"))
    has_more = any(kwargs.get(name) is not None for name in ("position_bias", "s_aux", "cache"))
    is_mask = mask is not None and mask.dtype == torch.bool and mask.shape[1] == 1
    return is_mask and query.device.type == "cpu" and query.shape[2] > 1 and not asks_more and not has_more


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Softmax attention; keys and values are never repeated for the heads that share them.

    Args:
        query: `[B, H, T, D]`.
        key: `[B, H_kv, S, D]`.
        value: Like `key`.
        mask: `[B or 1, 1, T, S]`, True where a query sees a key.
        scale: On the scores; None for one over the root of D.

    Returns:
        `[B, T, H, D]`.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.dtype == torch.bfloat16 and key.shape[2] <= MAX_PRODUCT_KEYS and key.shape == value.shape:
        output: Tensor = _ProductAttention.apply(query, key, value, mask, scale)  # type: ignore[no-untyped-call]
        return output
    is_grouped = query.shape[1] != key.shape[1]
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=is_grouped
    )
    return output.transpose(1, 2).contiguous()


def answers_by_products(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_answers` is faster than the flash kernel.

    Args:
        query: `[B, H, T, D]`.
        key: `[B, H_kv, S, D]`.
    """
    num_scores = query[..., 0].numel() * key.shape[2]
    is_worth_it = key[..., 0].numel() >= MIN_SINGLE_KEYS if query.shape[2] == 1 else num_scores <= MAX_PIECE_SCORES
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and is_worth_it


def attend_answers(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Softmax attention without gradients, in two products for all rows and heads; weights are computed in fp32.

    Args:
        query: `[B, H, T, D]`.
        key: `[B, H_kv, S, D]`; rows may lie apart, as slices of a cache do.
        value: Like `key`.
        mask: `[B, 1 or H, 1 or T, S]`, added to the scores; None adds nothing.
        scale: On the scores; None for one over the root of D.

    Returns:
        `[B, H, T, D]`.
    """
    num_rows, num_heads, length, width = query.shape
    num_kv_heads = key.shape[1]
    queries = query.reshape(num_rows * num_kv_heads, -1, width)
    if length == 1:
        # Keys on the left: the side with few rows is the one that a product rearranges first.
        scores = torch.bmm(key.flatten(0, 1), queries.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores = torch.bmm(queries, key.flatten(0, 1).transpose(1, 2))
    scores = scores.float().mul_(width**-0.5 if scale is None else scale)
    if mask is not None:
        scores.view(num_rows, num_heads, length, -1).add_(mask)
    return torch.bmm(scores.softmax(dim=-1).to(query.dtype), value.flatten(0, 1)).view(query.shape)


class _ProductAttention(torch.autograd.Function):
    """The heads that share keys stand as further queries of them: one product for each row and key head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        num_rows, num_heads, length, width = query.shape
        num_kv_heads, num_keys = key.shape[1:3]
        groups = num_heads // num_kv_heads
        padding = (0, 0, 0, -num_keys % KEY_MULTIPLE)
        queries = query.reshape(num_rows * num_kv_heads, groups * length, width)
        keys = nn.functional.pad(key, padding).flatten(0, 1)
        values = nn.functional.pad(value, padding).flatten(0, 1)
        bias = _bias(mask, num_kv_heads, groups, padding[-1], query.dtype)
        weights = _weights(queries, keys, bias, scale)
        output = torch.bmm(weights, values).view(num_rows, num_heads, length, width)
        kept = weights if num_keys <= MAX_KEPT_KEYS else bias
        ctx.save_for_backward(queries, keys, values, kept)
        ctx.are_weights_kept = kept is weights
        ctx.scale, ctx.query_shape, ctx.key_shape = scale, query.shape, key.shape
        return output.transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, kept = ctx.saved_tensors
        weights = kept if ctx.are_weights_kept else _weights(queries, keys, kept, ctx.scale)
        of_output = gradient.transpose(1, 2).reshape(queries.shape)
        of_weights = torch.bmm(of_output, values.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)

        def of_keys(left: Tensor, right: Tensor) -> Tensor:
            num_keys = ctx.key_shape[2]
            return torch.bmm(left.transpose(1, 2), right)[:, :num_keys].view(ctx.key_shape)

        needs_query, needs_key, needs_value = ctx.needs_input_grad[:3]
        return (
            torch.bmm(of_scores, keys).mul_(ctx.scale).view(ctx.query_shape) if needs_query else None,
            of_keys(of_scores, queries).mul_(ctx.scale) if needs_key else None,
            of_keys(weights, of_output) if needs_value else None,
            None,
            None,
        )


def _weights(queries: Tensor, keys: Tensor, bias: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale).softmax(dim=-1)


def _bias(mask: Tensor, num_kv_heads: int, groups: int, padding: int, dtype: torch.dtype) -> Tensor:
    """`[1 or B * H_kv, groups * T, S + padding]`: what is added to the scores."""
    visible = nn.functional.pad(mask, (0, padding))
    bias = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, HIDDEN)
    copies = num_kv_heads if len(bias) > 1 else 1
    rows, _, length, num_keys = bias.shape
    return (
        bias.unsqueeze(2)
        .expand(rows, copies, groups, length, num_keys)
        .reshape(rows * copies, groups * length, num_keys)
    )
