"""The registered attention: rows with their own prefixes, or none, in one batch, with and without a cache."""

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache

from tests.tiny import CONTEXT_LENGTH, FAMILIES, SLIDING_WINDOW, VOCAB_SIZE, tiny_model
from worker.engine.attention import attending, install, prefix_sdpa_mask, recording
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix, position_ids_for

NUM_VIRTUAL_TOKENS = 5


def installed(family: str) -> PreTrainedModel:
    model = tiny_model(family)
    install(model)
    return model


def random_bank(model: PreTrainedModel, lengths: tuple[int, ...]) -> PrefixBank:
    """Prefixes of real K/V: each slot holds what the model computed for random tokens."""
    generator = torch.Generator().manual_seed(7)
    prefixes = []
    for length in lengths:
        ids = torch.randint(VOCAB_SIZE, (1, length), generator=generator)
        with torch.no_grad(), recording(model) as recorded:
            model(ids)
        prefixes.append(SlotPrefix(recorded.stacked()[0]))
    return PrefixBank.stack(prefixes)


def random_ids(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model: PreTrainedModel, bank: PrefixBank | None, slots: list[int], ids: torch.Tensor, mask=None):
    mask = torch.ones_like(ids) if mask is None else mask
    with attending(model, bank, slots):
        return model(ids, attention_mask=mask, position_ids=position_ids_for(mask, bank, slots)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_installed_model_without_bank_computes_what_it_did_before(family: str) -> None:
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, :4] = 0
    with torch.no_grad():
        stock = tiny_model(family)(ids, attention_mask=mask).logits
        ours = installed(family)(ids, attention_mask=mask).logits
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_of_a_text_equals_the_text_in_context(family: str) -> None:
    model = installed(family)
    ids = random_ids(1, 14)
    with torch.no_grad(), recording(model) as recorded:
        whole = model(ids).logits
    bank = PrefixBank(recorded.stacked()[..., :6, :])
    with_prefix = logits_of(model, bank, [0], ids[:, 6:])
    torch.testing.assert_close(with_prefix, whole[:, 6:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_mixed_rows_equal_each_row_alone(family: str, side: str) -> None:
    model = installed(family)
    bank = random_bank(model, (5, 3))
    slots, lengths = [0, NO_PREFIX, 1, 0], [9, 11, 6, 11]
    ids, mask = random_ids(4, 11), torch.zeros(4, 11, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, slice(11 - length, 11) if side == "left" else slice(length)] = 1
    batched = logits_of(model, bank, slots, ids, mask)
    for row, slot in enumerate(slots):
        real = mask[row].bool()
        alone = logits_of(model, bank, [slot], ids[row : row + 1, real])
        torch.testing.assert_close(batched[row, real], alone[0], atol=5e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("family", FAMILIES)
def test_row_without_prefix_equals_the_untouched_model(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Twice, so that the difference is seen to be rounding: it shrinks with the number format."""
    ids = random_ids(3, 10)
    model = installed(family).to(dtype)
    ours = logits_of(model, random_bank(model, (5,)), [0, NO_PREFIX, 0], ids)
    with torch.no_grad():
        stock = tiny_model(family).to(dtype)(ids[1:2]).logits
    torch.testing.assert_close(ours[1:2], stock, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_one_long_forward(family: str) -> None:
    model = installed(family)
    bank = random_bank(model, (5, 3))
    slots = [1, NO_PREFIX, 0]
    ids, mask = random_ids(3, 16), torch.ones(3, 16, dtype=torch.long)
    mask[0, :3] = 0
    expected = logits_of(model, bank, slots, ids, mask)
    position_ids = position_ids_for(mask, bank, slots)
    cache = DynamicCache(config=model.config)
    steps = [(0, 8), (8, 11), *((column, column + 1) for column in range(11, 16))]
    with torch.no_grad(), attending(model, bank, slots):
        parts = [
            model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=position_ids[:, start:end],
                past_key_values=cache,
                use_cache=True,
            ).logits
            for start, end in steps
        ]
    got = torch.cat(parts, dim=1)
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=5e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_static_cache_keeps_its_empty_places_out_of_sight(family: str) -> None:
    model = installed(family)
    bank = random_bank(model, (5,))
    ids = random_ids(2, 10)
    expected = logits_of(model, bank, [0, 0], ids)
    cache = StaticCache(config=model.config, max_cache_len=20)
    position_ids = position_ids_for(torch.ones_like(ids), bank, [0, 0])
    with torch.no_grad(), attending(model, bank, [0, 0]):
        parts = [
            model(ids[:, start:end], position_ids=position_ids[:, start:end], past_key_values=cache).logits
            for start, end in [(0, 8), (8, 9), (9, 10)]
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropped_padding_mask_changes_no_real_token(family: str) -> None:
    model = installed(family)
    bank = random_bank(model, (NUM_VIRTUAL_TOKENS,))
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    masked = logits_of(model, bank, [0, 0], ids, mask)
    position_ids = torch.arange(12).expand(2, -1) + NUM_VIRTUAL_TOKENS
    with torch.no_grad(), attending(model, bank, [0, 0]):
        unmasked = model(ids, position_ids=position_ids).logits
    torch.testing.assert_close(unmasked[mask.bool()], masked[mask.bool()], atol=2e-6, rtol=0)


def test_prefix_leaves_a_sliding_window() -> None:
    model = installed("gemma3_text")
    model.config.layer_types = ["sliding_attention"] * 3
    model.model.layers[2].self_attn.sliding_window = SLIDING_WINDOW
    bank = random_bank(model, (2,))
    ids = random_ids(1, 30)
    one, two = logits_of(model, bank, [0], ids), logits_of(model, PrefixBank(bank.kv + 1.0), [0], ids)
    reach = 3 * SLIDING_WINDOW  # each layer hands the prefix on by one window at most
    torch.testing.assert_close(one[:, reach:], two[:, reach:], atol=1e-6, rtol=0)
    assert (one[:, 0] - two[:, 0]).abs().max() > 1e-2


def test_gradient_reaches_only_the_slots_in_use() -> None:
    model = installed("llama")
    bank = PrefixBank(random_bank(model, (5, 5, 3)).kv, (5, 5, 3), trainable=True)
    ids = random_ids(2, 8)
    mask = torch.ones_like(ids)
    with attending(model, bank, [2, 0]):
        model(
            ids, attention_mask=mask, position_ids=position_ids_for(mask, bank, [2, 0])
        ).logits.square().sum().backward()
    gradient = bank.kv.grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0
    assert gradient[2][..., :3, :].abs().sum() > 0
    assert gradient[2][..., 3:, :].abs().sum() == 0


def test_eager_family_agrees_with_sdpa() -> None:
    ids = random_ids(2, 12)
    model, capped = installed("gemma3_text"), tiny_model("gemma3_text")
    capped.config.attn_logit_softcapping = 1e6  # so high that it changes nothing, yet sdpa would refuse it
    for layer in capped.model.layers:
        layer.self_attn.attn_logit_softcapping = 1e6
    install(capped)
    assert capped.config._attn_implementation == "prefix_eager"
    bank = random_bank(model, (5, 3))
    slots = [1, NO_PREFIX]
    torch.testing.assert_close(
        logits_of(capped, bank, slots, ids), logits_of(model, bank, slots, ids), atol=1e-5, rtol=0
    )


def test_attending_refuses_a_forward_without_positions() -> None:
    model = installed("llama")
    with (
        attending(model, random_bank(model, (5,)), [0]),
        pytest.raises(ValueError, match="position_ids are missing"),
    ):
        model(random_ids(1, 4))


def test_attending_refuses_a_batch_of_another_size() -> None:
    model = installed("llama")
    with pytest.raises(ValueError, match="the batch has 2 rows and 1 slots"):
        logits_of(model, random_bank(model, (5,)), [0], random_ids(2, 4))


def test_state_is_gone_after_an_error() -> None:
    model = installed("llama")
    with pytest.raises(RuntimeError, match="stop"), attending(model, random_bank(model, (5,)), [0]):
        raise RuntimeError("stop")
    with torch.no_grad():
        assert torch.equal(model(random_ids(1, 4)).logits, tiny_model("llama")(random_ids(1, 4)).logits)


def test_positions_of_padding_stay_within_the_context() -> None:
    mask = torch.zeros(1, CONTEXT_LENGTH, dtype=torch.long)
    mask[0, :3] = 1
    bank = random_bank(installed("llama"), (5,))
    assert position_ids_for(mask, bank, [0]).max() == 7


@pytest.mark.parametrize(("q_length", "kv_length", "is_left_out"), [(8, 8, True), (1, 8, True), (8, 20, False)])
def test_mask_is_left_out_only_where_that_means_one_thing(q_length: int, kv_length: int, is_left_out: bool) -> None:
    mask = prefix_sdpa_mask(batch_size=1, q_length=q_length, kv_length=kv_length)
    assert (mask is None) == is_left_out
