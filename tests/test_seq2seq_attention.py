"""Prefixes in front of the three kinds of attention of encoder-decoders, against transformers and plain algebra."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.masking_utils import eager_mask

from tests.tiny import VOCAB_SIZE
from tests.tiny_seq2seq import SEQ2SEQ_FAMILIES, tiny_seq2seq
from worker.engine.attention import attending, install, recording
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.checkpointing import checkpointed_layers

ENCODER, DECODER = 2, 3
NUM_VIRTUAL_TOKENS = 4
TOLERANCE = 1e-9
T5_LIKE = ("t5", "t5-gated", "mt5")


def ids(rows: int, length: int, seed: int = 3) -> Tensor:
    return torch.randint(3, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def model_of(family: str) -> PreTrainedModel:
    """fp64 tells a wrong mask or bias from rounding."""
    return tiny_seq2seq(family).double().requires_grad_(False)


def random_bank(slots: int = 1, lengths: list[int] | None = None, **kwargs: Any) -> PrefixBank:
    generator = torch.Generator().manual_seed(7)
    shape = (slots, ENCODER + 2 * DECODER, 2, 4, NUM_VIRTUAL_TOKENS, 8)
    return PrefixBank(torch.randn(shape, generator=generator, dtype=torch.float64), lengths, **kwargs)


def batch() -> dict[str, Tensor]:
    """Three rows, padded on the right in the encoder."""
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = 0
    mask[2, 3:] = 0
    return {"input_ids": ids(3, 9), "attention_mask": mask, "decoder_input_ids": ids(3, 5, seed=4)}


def attentions_in_order(model: PreTrainedModel) -> list[nn.Module]:
    """The encoder's, the decoder's to itself, the decoder's to the encoder, found by the names of the modules."""
    found: dict[str, list[nn.Module]] = {"encoder": [], "self": [], "cross": []}
    for name, module in model.named_modules():
        end = name.rsplit(".", 1)[-1]
        if end in ("SelfAttention", "self_attn"):
            found["encoder" if "encoder" in name.split(".") else "self"].append(module)
        elif end in ("EncDecAttention", "encoder_attn"):
            found["cross"].append(module)
    return [*found["encoder"], *found["self"], *found["cross"]]


@contextmanager
def by_hand(model: PreTrainedModel, kv: Tensor, lengths: list[int]) -> Iterator[None]:
    """Attention written out row by row, with row i's prefix `kv[i, :, :, :, :lengths[i]]` of `[B, L, 2, H, P, D]`."""
    places = {module: index for index, module in enumerate(attentions_in_order(model))}
    biased = [module for module in places if getattr(module, "has_relative_attention_bias", False)]

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any):
        place = places[module]
        rows = []
        for row in range(len(query)):
            length = lengths[row]
            keys = torch.cat([kv[row, place, 0, :, :length], key[row]], dim=1)
            values = torch.cat([kv[row, place, 1, :, :length], value[row]], dim=1)
            scores = query[row] @ keys.transpose(1, 2) * kwargs["scaling"]
            if kwargs.get("position_bias") is not None and place < ENCODER + DECODER:
                source = biased[0 if place < ENCODER else 1]
                now = torch.arange(query.shape[2]) + key.shape[2] - query.shape[2]
                distance = torch.arange(-length, key.shape[2])[None] - now[:, None]
                bucket = source._relative_position_bucket(
                    distance, not source.is_decoder, source.relative_attention_num_buckets, 12
                )
                scores = scores + source.relative_attention_bias(bucket).permute(2, 0, 1)
            if mask is not None:
                own = mask[row if len(mask) > 1 else 0]
                scores = scores + nn.functional.pad(own, (length, 0))
            rows.append((scores.softmax(-1) @ values).transpose(0, 1))
        return torch.stack(rows), None

    AttentionInterface.register("by_hand", attention)
    AttentionMaskInterface.register("by_hand", eager_mask)
    model.set_attn_implementation("by_hand")
    yield


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_prefixes_of_several_lengths_equal_attention_written_out(family: str) -> None:
    bank, inputs = random_bank(2, [4, 2]), batch()
    reference, model = model_of(family), model_of(family)
    with by_hand(reference, bank.kv[[1, 0, 0]], [2, 4, 0]):
        expected = reference(**inputs, use_cache=False).logits
    install(model)
    with attending(model, bank, [1, 0, NO_PREFIX]):
        ours = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_prefixes_without_any_padding_equal_attention_written_out(family: str) -> None:
    """Without a mask an encoder is open and a decoder causal, even where both are equally long."""
    bank = random_bank()
    inputs = {"input_ids": ids(2, 6), "decoder_input_ids": ids(2, 6, seed=4)}
    reference, model = model_of(family), model_of(family)
    with by_hand(reference, bank.kv[[0, 0]], [4, 4]):
        expected = reference(**inputs, use_cache=False).logits
    install(model)
    with attending(model, bank, [0, 0]):
        ours = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", T5_LIKE)
def test_decoder_prefixes_equal_a_cache_made_by_hand(family: str) -> None:
    """What transformers itself does with keys and values that it finds in a cache, biases by distance included."""
    bank, inputs = random_bank(), batch()
    reference, model = model_of(family), model_of(family)
    with torch.no_grad():
        encoded = reference.get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    for layer in range(DECODER):
        own, cross = (bank.kv[0, ENCODER + layer + offset].expand(3, -1, -1, -1, -1) for offset in (0, DECODER))
        cache.self_attention_cache.update(own[:, 0], own[:, 1], layer)
        module = attentions_in_order(reference)[ENCODER + DECODER + layer]
        key, value = (
            getattr(module, name)(encoded.last_hidden_state).view(3, -1, 4, 8).transpose(1, 2) for name in ("k", "v")
        )
        cache.cross_attention_cache.update(torch.cat([cross[:, 0], key], 2), torch.cat([cross[:, 1], value], 2), layer)
        cache.is_updated[layer] = True
    wider = nn.functional.pad(inputs["attention_mask"], (NUM_VIRTUAL_TOKENS, 0), value=1)
    states = nn.functional.pad(encoded.last_hidden_state, (0, 0, NUM_VIRTUAL_TOKENS, 0))
    expected = reference(
        encoder_outputs=(states,),
        attention_mask=wider,
        decoder_input_ids=inputs["decoder_input_ids"],
        past_key_values=cache,
    ).logits
    install(model)
    in_decoder = bank.kv.clone()
    with attending(model, PrefixBank(in_decoder), [0, 0, 0]):
        ours = model(
            encoder_outputs=(encoded.last_hidden_state,),
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=inputs["decoder_input_ids"],
            use_cache=False,
        ).logits
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_every_slot_of_the_bank_takes_gradients_and_the_same_ones_when_checkpointed(family: str) -> None:
    model, inputs = model_of(family), batch()
    install(model)

    def gradient(is_checkpointing: bool) -> Tensor:
        bank = random_bank(trainable=True)
        with attending(model, bank, [0, 0, 0]):
            if is_checkpointing:
                with checkpointed_layers(model):
                    model(**inputs, use_cache=False).logits.logsumexp(-1).sum().backward()
            else:
                model(**inputs, use_cache=False).logits.logsumexp(-1).sum().backward()
        assert bank.kv.grad is not None
        return bank.kv.grad

    whole = gradient(is_checkpointing=False)
    assert (whole.abs().amax(dim=(0, 3, 4, 5)) > 1e-6).all(), "keys and values of every attention must learn"
    torch.testing.assert_close(gradient(is_checkpointing=True), whole, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_rows_with_different_prefixes_equal_lone_rows_and_the_untouched_model(family: str) -> None:
    bank, inputs = random_bank(2, [3, 4]), batch()
    untouched = model_of(family)(**inputs, use_cache=False).logits
    model = model_of(family)
    install(model)
    torch.testing.assert_close(model(**inputs, use_cache=False).logits, untouched, atol=TOLERANCE, rtol=0)
    slots = [1, NO_PREFIX, 0]
    with attending(model, bank, slots):
        together = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(together[1], untouched[1], atol=TOLERANCE, rtol=0)
    for row in (0, 2):
        alone = PrefixBank(bank.kv[slots[row] : slots[row] + 1, ..., : bank.lengths[slots[row]], :])
        with attending(model, alone, [0]):
            lone = model(**{name: value[row : row + 1] for name, value in inputs.items()}, use_cache=False).logits
        torch.testing.assert_close(together[row], lone[0], atol=TOLERANCE, rtol=0)
        assert (lone[0] - untouched[row]).abs().max() > 1e-2


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_recording_a_forward_gives_keys_and_values_in_the_order_of_the_bank(family: str) -> None:
    model = model_of(family)
    install(model)
    with recording(model) as recorded:
        model(input_ids=ids(1, 6), decoder_input_ids=ids(1, 6, seed=4), use_cache=False)
    assert recorded.stacked().shape == (1, ENCODER + 2 * DECODER, 2, 4, 6, 8)
    order = attentions_in_order(model)
    assert [module.prefix_index for module in order] == list(range(len(order)))
