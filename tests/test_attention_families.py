"""Every family that is offered: a prefix made of a text's keys and values equals that text in context."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from worker.engine.attention import attending, install, recording
from worker.engine.bank import NO_PREFIX, PrefixBank, position_ids_for
from worker.engine.families import SUPPORTED_FAMILIES

SIZES: dict[str, Any] = {
    "vocab_size": 120,
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
GPT2_SIZES: dict[str, Any] = {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
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

MIXTURES = {"gpt_oss", "qwen3_moe"}


def random_model(family: str) -> PreTrainedModel:
    sizes = GPT2_SIZES if family in ("gpt2", "gpt_bigcode") else {**SIZES, **SPECIAL.get(family, {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    # Experts have no fp64 kernel; everywhere else fp64 tells a wrong mask from rounding.
    return model.to(torch.float32 if family in MIXTURES else torch.float64).eval()


@pytest.mark.parametrize("family", sorted(SUPPORTED_FAMILIES))
def test_prefix_of_a_text_equals_the_text_in_context(family: str) -> None:
    model = random_model(family)
    tolerance = 2e-5 if family in MIXTURES else 1e-6
    ids = torch.randint(2, 120, (1, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(ids).logits
        install(model)
        with recording(model) as recorded:
            after = model(ids, use_cache=False).logits
        torch.testing.assert_close(after, whole, atol=tolerance, rtol=0)
        bank = PrefixBank(recorded.stacked()[..., :6, :])
        rest = ids[:, 6:].repeat(2, 1)
        mask = torch.ones_like(rest)
        with attending(model, bank, [0, NO_PREFIX]):
            position_ids = position_ids_for(mask, bank, [0, NO_PREFIX])
            prefixed = model(rest, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
        alone = model(ids[:, 6:], use_cache=False).logits
    torch.testing.assert_close(prefixed[:1], whole[:, 6:], atol=tolerance, rtol=0)
    torch.testing.assert_close(prefixed[1:], alone, atol=tolerance, rtol=0)
    assert (prefixed[0] - prefixed[1]).abs().max() > 1e-3
