"""The measurements of a model and the refusal of those that cannot take a prefix."""

import json

import pytest

from worker.engine.errors import UnsupportedModelError
from worker.engine.families import (
    ENCODER_DECODERS,
    SUPPORTED_FAMILIES,
    Geometry,
    check_family,
    check_method,
    geometry,
)

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
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "does not write text"),
        ({"model_type": "bart", "architectures": ["BartForSequenceClassification"]}, "does not write text"),
        ({"model_type": "mbart", "is_encoder_decoder": True}, "code of a language"),
        ({"model_type": "marian", "is_encoder_decoder": True}, "not among those that were verified"),
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


@pytest.mark.parametrize("family", sorted(ENCODER_DECODERS))
def test_geometry_of_an_encoder_decoder_equals_what_transformers_reads(family):
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[family](decoder_start_token_id=0)
    stored = json.loads(config.to_json_string(use_diff=True))
    check_family(stored)
    found = geometry(stored)
    decoder_layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    assert (found.num_encoder_layers, found.num_layers) == (config.num_hidden_layers, decoder_layers)
    assert found.num_attentions == config.num_hidden_layers + 2 * decoder_layers
    assert (found.num_kv_heads, found.hidden_size) == (config.num_attention_heads, config.hidden_size)
    assert found.head_dim == (getattr(config, "d_kv", None) or config.hidden_size // config.num_attention_heads)
    assert found.vocab_size == config.vocab_size


T5 = {
    "model_type": "t5",
    "num_layers": 6,
    "num_heads": 8,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "vocab_size": 32128,
}


def test_geometry_of_t5_takes_the_encoders_layers_for_the_decoder_and_its_trained_length():
    found = geometry({**T5, "n_positions": 512})
    assert (found.num_encoder_layers, found.num_layers, found.num_attentions) == (6, 6, 18)
    assert (found.context_length, found.learned_positions, found.intermediate_size) == (512, False, 2048)
    assert geometry(T5).context_length == 512
    assert found.prefix_parameters("prefix-tuning", 10) == 10 * 18 * 2 * 8 * 64


def test_a_row_of_an_encoder_decoder_fits_where_prompt_and_answer_fit_each():
    found = geometry(T5)
    assert found.fits(512, 511, 200)
    assert not found.fits(513, 1, 0)
    assert not found.fits(1, 512, 0)


def test_bart_is_accepted_as_it_is_published_and_refused_with_unequal_heads():
    bart = {"model_type": "bart", "architectures": ["BartModel"], "is_encoder_decoder": True}
    check_family({**bart, "encoder_attention_heads": 16, "decoder_attention_heads": 16})
    with pytest.raises(UnsupportedModelError, match="16 attention heads and its decoder 8"):
        check_family({**bart, "encoder_attention_heads": 16, "decoder_attention_heads": 8})


def test_prompt_tuning_of_an_encoder_decoder_is_refused():
    with pytest.raises(UnsupportedModelError, match="Choose prefix tuning"):
        check_method(geometry(T5), "prompt-tuning")
    check_method(geometry(T5), "prefix-tuning")
    check_method(geometry(LLAMA), "prompt-tuning")


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
