"""Every family that is offered: a prefix made of a text's keys and values equals that text in context."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny_families import MIXTURES, family_model
from worker.engine.attention import attending, install, recording
from worker.engine.bank import NO_PREFIX, PrefixBank, position_ids_for
from worker.engine.errors import UnsupportedModelError
from worker.engine.families import ENCODERS, SUPPORTED_FAMILIES, check_family


@pytest.mark.parametrize("family", sorted(SUPPORTED_FAMILIES))
def test_prefix_of_a_text_equals_the_text_in_context(family: str) -> None:
    model = family_model(family)
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


OTHER_MODELS: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 1, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 64},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    "gptj": {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4},
    "gpt_neo": {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]]},
    "codegen": {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4},
}


@pytest.mark.parametrize("family", sorted(OTHER_MODELS))
def test_family_whose_attention_cannot_be_replaced_is_refused_by_its_config_and_by_its_model(family: str) -> None:
    with pytest.raises(UnsupportedModelError, match="leaves no room for a prefix"):
        check_family({"model_type": family})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=120, **OTHER_MODELS[family]))
    with pytest.raises(UnsupportedModelError, match="their attention cannot be replaced"):
        install(model)


@pytest.mark.parametrize("family", sorted(ENCODERS))
def test_encoder_is_refused_because_it_writes_nothing(family: str) -> None:
    with pytest.raises(UnsupportedModelError, match="reads text but does not write any"):
        check_family({"model_type": family})
