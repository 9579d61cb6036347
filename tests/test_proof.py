"""The stamp on a comparison: it holds for the untouched model alone, and says how far a prefix moves it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.tiny import tiny_base_folder
from worker.engine.bank import NO_PREFIX, SlotPrefix
from worker.engine.base import LoadedBase, load_base
from worker.engine.generate import GenerationRow
from worker.engine.running_batch import RunningBatch
from worker.inference.proof import TOLERANCE, prove

NUM_VIRTUAL_TOKENS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("proof"), "llama"), device="cpu")


def row(prompt_ids: tuple[int, ...] = (5, 6, 7), slot: int = NO_PREFIX) -> GenerationRow:
    return GenerationRow(prompt_ids=prompt_ids, max_new_tokens=1, slot=slot)


def prefix(base: LoadedBase) -> Tensor:
    told = base.geometry
    shape = (told.num_layers, 2, told.num_kv_heads, NUM_VIRTUAL_TOKENS, told.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def first_logits(base: LoadedBase, *rows: tuple[GenerationRow, Tensor | None], outside: bool = False) -> list[Tensor]:
    """What a batch of these rows computes for their first tokens; prefixes may stand outside the softmax too."""
    batch = RunningBatch(base)
    writing = [
        batch.join(each, None if kv is None else SlotPrefix(kv, 0.5 * kv if outside else None)) for each, kv in rows
    ]
    batch.step()
    return [each.first_logits for each in writing if each.first_logits is not None]


@pytest.mark.parametrize("outside", [False, True])
def test_row_of_the_base_is_verified_beside_one_with_a_prefix(base: LoadedBase, outside: bool) -> None:
    rows = [row(), row(slot=0)]
    logits = first_logits(base, (rows[0], None), (rows[1], prefix(base)), outside=outside)
    proof = prove(base, rows, logits)
    assert proof is not None
    assert proof.base_verified
    assert proof.max_difference < TOLERANCE
    base_first, prefixed = (torch.log_softmax(each.double(), -1) for each in logits)
    expected = float((prefixed.exp() * (prefixed - base_first)).sum())
    assert proof.prefix_kl == pytest.approx(expected, rel=1e-4)
    assert expected > 0


def test_row_that_a_prefix_has_touched_is_not_passed_off_as_the_base(base: LoadedBase) -> None:
    (touched,) = first_logits(base, (row(slot=0), prefix(base)))
    proof = prove(base, [row()], [touched])
    assert proof is not None
    assert not proof.base_verified
    assert proof.max_difference > TOLERANCE


@pytest.mark.parametrize(("shift", "is_verified"), [(TOLERANCE / 2, True), (3 * TOLERANCE, False)])
def test_one_logit_that_is_off_by_more_than_rounding_breaks_the_stamp(
    base: LoadedBase, shift: float, is_verified: bool
) -> None:
    logits = first_logits(base, (row(), None))[0].clone()
    logits[3] += shift
    proof = prove(base, [row()], [logits])
    assert proof is not None
    assert proof.base_verified is is_verified


def test_weights_that_a_row_did_not_see_break_the_stamp(tmp_path: Path) -> None:
    base = load_base(tiny_base_folder(tmp_path, "llama"), device="cpu")
    (logits,) = first_logits(base, (row(), None))
    with torch.no_grad():
        base.model.get_input_embeddings().weight[6] += 1.0
    proof = prove(base, [row()], [logits])
    assert proof is not None
    assert not proof.base_verified


def test_distance_is_that_of_a_prefix_that_was_asked_the_same(base: LoadedBase) -> None:
    rows = [row(), replace(row((9, 8)), slot=0)]
    proof = prove(base, rows, first_logits(base, (rows[0], None), (rows[1], prefix(base))))
    assert proof is not None
    assert proof.prefix_kl is None
    assert prove(base, rows[1:], first_logits(base, (rows[1], prefix(base)))) is None


def test_full_strength_is_the_prefix_as_stock_attention_reads_it_from_a_cache(base: LoadedBase) -> None:
    """100 % on the dial is the trained prefix itself: nothing of ours takes part in what it is held against."""
    numbers, asked = prefix(base), row(slot=0)
    (ours,) = first_logits(base, (asked, numbers))
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(numbers):
        cache.update(keys[None], values[None], layer)
    installed = base.model.config._attn_implementation
    base.model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            stock = base.model(input_ids=torch.tensor([asked.prompt_ids]), past_key_values=cache).logits[0, -1]
    finally:
        base.model.set_attn_implementation(installed)
    assert torch.allclose(ours, stock, atol=TOLERANCE)
    weaker = first_logits(base, (replace(asked, strength=0.98), numbers))[0]
    assert float((weaker - stock).abs().max()) > TOLERANCE
