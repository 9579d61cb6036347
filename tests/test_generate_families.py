"""Generation token by token in every family, mixed prefixes in one batch, against whole forwards without a cache."""

import json

import pytest
import torch

from tests.tiny import tiny_tokenizer
from tests.tiny_families import VOCAB_SIZE, family_model
from worker.engine.attention import attending, recording
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix, position_ids_for
from worker.engine.base import LoadedBase, prepare_base
from worker.engine.families import SUPPORTED_FAMILIES, geometry
from worker.engine.generate import GenerationRow, stream

NUM_VIRTUAL_TOKENS = 5
NEW_TOKENS = 8
PROMPTS = ((5, 9, 17, 3, 60, 41), (7, 8))


def base_of(family: str) -> LoadedBase:
    """The tokenizer is of no vocabulary that the model knows, as only ids matter here."""
    model = family_model(family).float()
    return prepare_base(model, tiny_tokenizer(), geometry(json.loads(model.config.to_json_string())))


def real_bank(base: LoadedBase) -> PrefixBank:
    """Two prefixes of real K/V, the second one with more outside the softmax."""
    ids = torch.randint(2, VOCAB_SIZE, (2, NUM_VIRTUAL_TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), recording(base.model) as recorded:
        base.model(ids, use_cache=False)
    first, second = recorded.stacked()
    return PrefixBank.stack([SlotPrefix(first), SlotPrefix(second, 0.5 * second)])


@torch.no_grad()
def whole_forward(base: LoadedBase, bank: PrefixBank, row: GenerationRow) -> list[int]:
    """The most likely token again and again, each by a forward over all tokens so far."""
    ids = list(row.prompt_ids)
    for _ in range(row.max_new_tokens):
        mask = torch.ones(1, len(ids), dtype=torch.long)
        with attending(base.model, bank, [row.slot]):
            positions = position_ids_for(mask, bank, [row.slot])
            out = base.model(torch.tensor([ids]), attention_mask=mask, position_ids=positions, use_cache=False)
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(row.prompt_ids) :]


@pytest.mark.parametrize("family", sorted(SUPPORTED_FAMILIES))
def test_cached_generation_of_mixed_rows_equals_whole_forwards(family: str) -> None:
    base = base_of(family)
    bank = real_bank(base)
    rows = [
        GenerationRow(prompt, slot=slot, max_new_tokens=NEW_TOKENS - slot)
        for prompt, slot in zip(PROMPTS * 2, (0, 1, NO_PREFIX, NO_PREFIX), strict=True)
    ]
    tokens: list[list[int]] = [[] for _ in rows]
    for events in stream(base, bank, rows):
        for event in events:
            tokens[event.row].append(event.token_id)
    expected = [whole_forward(base, bank, row) for row in rows]
    assert tokens == expected
