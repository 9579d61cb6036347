"""Every family that is offered: a prefix made of a text's keys and values equals that text in context."""

import pytest
import torch

from tests.tiny_families import MIXTURES, family_model
from worker.engine.attention import attending, install, recording
from worker.engine.bank import NO_PREFIX, PrefixBank, position_ids_for
from worker.engine.families import SUPPORTED_FAMILIES


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
