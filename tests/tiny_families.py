"""A tiny random model of every family that is offered, each with the peculiarities that a prefix must bear."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB_SIZE = 120
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GPT2_SIZES: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": GPT2_SIZES,
    "gpt_bigcode": GPT2_SIZES,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gemma2": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "mistral": {"sliding_window": 4},
    "starcoder2": {"sliding_window": 4},
    "cohere2": {"sliding_window": 4},
    "phi3": {"sliding_window": 4},
    "gpt_oss": {"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}

WITHOUT_GROUPS = {"gpt_neox", "opt"}
"""Families that have as many key/value heads as heads, whatever a configuration says."""

MIXTURES = {"gpt_oss", "qwen3_moe"}
"""Their experts have no fp64 kernel."""


def family_model(family: str) -> PreTrainedModel:
    """A random model of two layers in eval mode, the same each time; fp64 where the family can, which tells a wrong
    mask from rounding.

    Args:
        family: A key of `families.SUPPORTED_FAMILIES`.
    """
    sizes = GPT2_SIZES if family in ("gpt2", "gpt_bigcode") else {**SIZES, **SPECIAL.get(family, {})}
    if family in WITHOUT_GROUPS:
        sizes = {name: size for name, size in sizes.items() if name != "num_key_value_heads"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.to(torch.float32 if family in MIXTURES else torch.float64).eval()
