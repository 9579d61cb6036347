"""The measurements of a model and the refusal of those that cannot take a prefix."""

import json

import pytest

from worker.engine.errors import UnsupportedModelError
from worker.engine.families import SUPPORTED_FAMILIES, Geometry, check_family, geometry

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
}


def test_geometry_of_smollm2_is_read_from_its_config():
    assert geometry(LLAMA) == Geometry(30, 3, 64, 576, 49152, 2048, False, 9, 1536)


def test_geometry_of_gpt2_uses_its_own_names_and_has_learned_positions():
    config = {
        "model_type": "gpt2",
        "n_layer": 12,
        "n_head": 12,
        "n_embd": 768,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    found = geometry(config)
    assert (found.num_layers, found.num_kv_heads, found.head_dim, found.context_length) == (12, 12, 64, 1024)
    assert found.learned_positions
    assert found.intermediate_size == 3072


def test_geometry_keeps_a_head_dim_that_is_not_an_even_share():
    config = {**LLAMA, "model_type": "gemma3_text", "num_attention_heads": 4, "hidden_size": 640, "head_dim": 256}
    assert geometry(config).head_dim == 256


def test_prefix_parameters_count_keys_and_values_of_every_layer():
    assert geometry(LLAMA).prefix_parameters("prefix-tuning", 32) == 32 * 30 * 2 * 3 * 64
    assert geometry(LLAMA).prefix_parameters("prompt-tuning", 32) == 32 * 576


@pytest.mark.parametrize("family", sorted(SUPPORTED_FAMILIES))
def test_geometry_equals_what_transformers_reads(family):
    from transformers import CONFIG_MAPPING

    # The default tokens of some configuration classes lie outside their own vocabulary, which transformers warns of.
    config = CONFIG_MAPPING[family](bos_token_id=1, eos_token_id=2, pad_token_id=0)
    found = geometry(json.loads(config.to_json_string(use_diff=True)))
    check_family(json.loads(config.to_json_string(use_diff=True)))
    expected_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    expected_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (found.num_layers, found.hidden_size) == (config.num_hidden_layers, config.hidden_size)
    assert (found.num_kv_heads, found.head_dim) == (expected_heads, expected_dim)
    assert (found.vocab_size, found.context_length) == (config.vocab_size, config.max_position_embeddings)


@pytest.mark.parametrize("family", ["mistral", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gpt_oss"])
def test_geometry_fills_what_a_config_leaves_out_as_transformers_does(family):
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](bos_token_id=1, eos_token_id=2, pad_token_id=0)
    sparse = json.loads(config.to_json_string(use_diff=True))
    sparse.pop("head_dim", None)
    sparse.pop("num_key_value_heads")
    read_again = CONFIG_MAPPING[family](**{**sparse, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    found = geometry(sparse)
    assert found.num_kv_heads == read_again.num_key_value_heads
    dim = getattr(read_again, "head_dim", None) or read_again.hidden_size // read_again.num_attention_heads
    assert found.head_dim == dim


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "own program code"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder and writes with a decoder"),
        ({"model_type": "bloom"}, "no room for a prefix"),
        ({"model_type": "bert"}, "does not write any"),
        ({"model_type": "mamba"}, "not among those that were verified"),
        ({"model_type": None}, "without a model_type"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "does not write text"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "512 wide"),
    ],
)
def test_check_family_refuses_with_the_reason(changes, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        check_family({**LLAMA, **changes})


def test_check_family_names_the_families_that_work():
    with pytest.raises(UnsupportedModelError, match=r"These families work: Llama and SmolLM, Mistral"):
        check_family({"model_type": "bloom"})


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "8", 10**12])
def test_geometry_refuses_impossible_measurements(value):
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers"):
        geometry({**LLAMA, "num_hidden_layers": value})


def test_geometry_refuses_a_config_that_says_nothing():
    with pytest.raises(UnsupportedModelError, match="does not say num_layers"):
        geometry({"model_type": "llama"})
