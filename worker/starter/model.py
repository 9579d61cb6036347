"""A lean Llama decoder for training on a CPU; its tensors carry the names that transformers gives them.

It computes what `LlamaForCausalLM` computes (held by a test), without the cache, masks and hooks, so that
`torch.compile` makes one graph of it. Source: Touvron et al. 2023, "LLaMA", section 2.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig

LONGEST_PLAIN_ATTENTION = 512


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder."""

    vocab_size: int = 6144
    hidden_size: int = 256
    intermediate_size: int = 704
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    context_length: int = 1024
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def to_llama_config(self, end_token_id: int, pad_token_id: int) -> LlamaConfig:
        """The configuration under which transformers loads the exported weights."""
        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.context_length,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.norm_eps,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end_token_id,
            pad_token_id=pad_token_id,
        )


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each pair of channels by its position's angle.

    Args:
        heads: `[B, H, T, D]`.
        cosine: `[T, D / 2]`.
        sine: `[T, D / 2]`.

    Source: Su et al. 2021, "RoFormer", equation 34, with the halves split as Llama does.
    """
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(heads.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention, all arguments and the result `[B, H, T, D]`.

    Short rows take plain products: compiled, they need a fifth less CPU time per step than the fused CPU kernel,
    whose backward pass is slow; from 1,024 on the score matrices are too large for that.
    """
    length = query.shape[2]
    if length > LONGEST_PLAIN_ATTENTION:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed: Tensor = scores.masked_fill(future, float("-inf")).softmax(dim=-1).to(value.dtype) @ value
    return mixed


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key/value head (GQA)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`[B, T, hidden]` to `[B, T, hidden]`."""
        batch, length, _ = hidden.shape
        query = self.q_proj(hidden).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
        key = self.k_proj(hidden).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
        value = self.v_proj(hidden).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
        groups = self.shape.num_heads // self.shape.num_kv_heads
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        mixed = attend(query, key, value)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return output


class FeedForward(nn.Module):
    """SwiGLU. Source: Shazeer 2020, "GLU Variants Improve Transformer"."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, T, hidden]` to `[B, T, hidden]`."""
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """`[B, T, hidden]` to `[B, T, hidden]`."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cosine, sine)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class Decoder(nn.Module):
    """Token ids to logits; the embedding is the output layer too."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.norm_eps)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * self.shape.num_layers) ** 0.5 if is_output else 0.02
                nn.init.normal_(weight, std=std, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits fp32 `[B, T, vocabulary]` of ids `[B, T]`."""
        positions = torch.arange(input_ids.shape[1], dtype=torch.float32)
        exponents = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32) / self.shape.head_dim
        angles = torch.outer(positions, self.shape.rope_theta**-exponents)
        cosine, sine = angles.cos(), angles.sin()
        hidden = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine)
        return functional.linear(self.norm(hidden), self.embed_tokens.weight).float()


def next_token_loss(decoder: nn.Module, rows: Tensor) -> Tensor:
    """Mean loss in nats per token of rows `[B, T + 1]`."""
    logits = decoder(rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
