"""Virtual tokens outside the softmax: the formula, every way through attention, the file, the start of a training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix, position_ids_for
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import InvalidPrefixFileError, UnsupportedModelError
from worker.engine.families import check_method
from worker.engine.generate import GenerationRow, stream
from worker.engine.outside import add_mapped, maps_of
from worker.engine.prefix_file import PrefixArray, read_prefix_file, write_prefix_file
from worker.engine.prompt_tuning import load_bank
from worker.engine.recipe import Recipe
from worker.engine.reparameterisation import parameterise

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3_text")
TEXT = tuple(range(5, 14))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("llama"), "llama"), device="cpu", dtype="float32")


def random_bank(base: LoadedBase, scale: float = 0.5) -> PrefixBank:
    """Slot 0 has nothing outside, slot 1 as many tokens as inside."""
    measured, generator = base.geometry, torch.Generator().manual_seed(2)
    plain, plus = (
        torch.randn(measured.num_layers, 2, measured.num_kv_heads, columns, measured.head_dim, generator=generator)
        for columns in (3, 10)
    )
    return PrefixBank.stack([SlotPrefix(plain), SlotPrefix.of("prefix-tuning-plus", scale * plus)])


@torch.no_grad()
def last_logits(base: LoadedBase, bank: PrefixBank | None, ids: torch.Tensor, slots: list[int]) -> torch.Tensor:
    positions = position_ids_for(torch.ones_like(ids), bank, slots)
    with attending(base.model, bank, slots):
        return base.model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, -1]


def test_each_token_adds_its_value_by_how_well_the_query_fits_its_key() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 4, 8, generator=generator, dtype=torch.float64)
    outside = torch.randn(2, 2, 3, 5, 8, generator=generator, dtype=torch.float64)
    output = torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64)
    wanted = output.clone()
    for head in range(6):
        key, value = outside[:, 0, head // 2], outside[:, 1, head // 2]
        for token in range(5):
            fit = (query[:, head] * key[:, None, token]).sum(-1) / 8**0.5
            wanted[:, :, head] += fit[..., None] * value[:, None, token]
    torch.testing.assert_close(add_mapped(output, query, maps_of(outside)), wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_one_batch_equal_themselves_alone_and_the_base_its_untouched_self(tmp_path: Path, family: str) -> None:
    base = load_base(tiny_base_folder(tmp_path, family), device="cpu", dtype="float32")
    bank, slots = random_bank(base), [1, NO_PREFIX, 0, 1]
    ids = torch.randint(5, 40, (4, 7), generator=torch.Generator().manual_seed(1))
    together = last_logits(base, bank, ids, slots)
    for row, slot in enumerate(slots):
        alone = last_logits(base, bank if slot != NO_PREFIX else None, ids[row : row + 1], [slot])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    without = PrefixBank(bank.kv, bank.lengths)
    assert not torch.allclose(together[0], last_logits(base, without, ids[:1], [1])[0], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_begin_with_the_logits_that_training_sees(tmp_path: Path, family: str) -> None:
    base = load_base(tiny_base_folder(tmp_path, family), device="cpu", dtype="float32")
    bank, slots = random_bank(base), [1, NO_PREFIX, 0]
    ids = torch.randint(5, 40, (3, 6), generator=torch.Generator().manual_seed(1))
    rows = [GenerationRow(tuple(row.tolist()), slot, max_new_tokens=3) for row, slot in zip(ids, slots, strict=True)]
    first: list[torch.Tensor] = []
    steps = list(stream(base, bank, rows, observe_first=first.append))
    torch.testing.assert_close(first[0], last_logits(base, bank, ids, slots), atol=1e-4, rtol=1e-4)

    written = torch.tensor([[event.token_id for event in step if event.row == 0] for step in steps[:2]]).T
    longer = torch.cat([ids[:1], written], dim=1)
    assert int(last_logits(base, bank, longer, [1]).argmax()) == next(e.token_id for e in steps[2] if e.row == 0)


def test_strength_leads_from_the_base_to_the_prefix(llama: LoadedBase) -> None:
    bank, ids = random_bank(llama), tuple(range(5, 12))

    def first_logits(slot: int, strength: float) -> torch.Tensor:
        first: list[torch.Tensor] = []
        list(stream(llama, bank, [GenerationRow(ids, slot, max_new_tokens=1, strength=strength)], None, first.append))
        return first[0][0]

    base, whole = first_logits(NO_PREFIX, 1.0), first_logits(1, 1.0)
    assert torch.equal(first_logits(1, 0.0), base)
    distances = [float((first_logits(1, strength) - whole).norm()) for strength in (0.25, 0.5, 0.9, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
    with torch.no_grad(), attending(llama.model, bank, [1], [0.5]):
        positions = torch.arange(5, 5 + len(ids))[None]
        trained = llama.model(input_ids=torch.tensor([ids]), position_ids=positions, use_cache=False).logits[0, -1]
    torch.testing.assert_close(first_logits(1, 0.5), trained, atol=1e-4, rtol=1e-4)


def test_prefix_begins_as_one_without_anything_outside(llama: LoadedBase) -> None:
    recipe = Recipe(method="prefix-tuning-plus", num_virtual_tokens=4, reparameterisation="propagated")
    trained = parameterise(llama, recipe, TEXT)
    prefix = SlotPrefix.of(recipe.method, trained.numbers()[0].detach())
    ids = torch.tensor([TEXT])
    plus, plain = (PrefixBank.stack([one]) for one in (prefix, SlotPrefix(prefix.kv)))
    assert torch.equal(last_logits(llama, plus, ids, [0]), last_logits(llama, plain, ids, [0]))
    assert torch.linalg.matrix_rank(prefix.outside[:, 0]).min() == 4
    again = parameterise(llama, recipe, TEXT[::-1])
    again.load(trained.state())
    assert torch.equal(again.numbers(), trained.numbers())


def test_file_gives_back_what_was_written(tmp_path: Path, llama: LoadedBase) -> None:
    measured = llama.geometry
    shape = (measured.num_layers, 2, measured.num_kv_heads, 10, measured.head_dim)
    prefix = PrefixArray.of("prefix-tuning-plus", torch.randn(shape).numpy())
    assert prefix.num_virtual_tokens == 5
    assert measured.prefix_parameters("prefix-tuning-plus", 5) == prefix.values.size
    write_prefix_file(tmp_path / "prefix", prefix)
    read = read_prefix_file(tmp_path / "prefix", "prefix-tuning-plus", measured)
    assert (read.values == prefix.values).all()
    assert load_bank(llama, [read]).outside.shape[-2] == 5

    write_prefix_file(tmp_path / "odd", PrefixArray.of("prefix-tuning", prefix.values[..., :9, :]))
    with pytest.raises(InvalidPrefixFileError, match=r"a prefix-tuning-plus prefix of this base has \[2 to 8192, even"):
        read_prefix_file(tmp_path / "odd", "prefix-tuning-plus", measured)


def test_base_with_an_encoder_is_refused(llama: LoadedBase) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Prefix tuning\+ works with models that only decode"):
        check_method(replace(llama.geometry, num_encoder_layers=2), "prefix-tuning-plus")
