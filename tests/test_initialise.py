"""First states: the K/V of a text, stretched to the length that is wanted, or random numbers of their scale."""

from pathlib import Path

import pytest
import torch

from tests.tiny import FAMILIES, tiny_base_folder
from worker.engine.attention import attending
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import InvalidRecipeError
from worker.engine.initialise import initial_numbers, stretch
from worker.engine.prefix_file import PrefixArray
from worker.engine.prompt_tuning import bank_of, load_bank
from worker.engine.recipe import Method, Recipe

TEXT = (5, 90, 41, 230, 17, 301)


def tiny_base(tmp_path: Path, family: str = "llama") -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / family, family), device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_first_state_is_as_good_as_the_text_in_context(tmp_path: Path, family: str, method: Method) -> None:
    base = tiny_base(tmp_path, family)
    numbers = initial_numbers(base, Recipe(method=method, num_virtual_tokens=len(TEXT)), TEXT)
    row = (7, 8, 9, 250)
    with torch.no_grad():
        whole = base.model(torch.tensor([[*TEXT, *row]])).logits[:, len(TEXT) :]
        bank = bank_of(base, method, numbers)
        position_ids = torch.arange(len(TEXT), len(TEXT) + len(row)).unsqueeze(0)
        with attending(base.model, bank, [0]):
            prefixed = base.model(torch.tensor([row]), position_ids=position_ids).logits
    torch.testing.assert_close(prefixed, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("method", "shape"), [("prefix-tuning", (1, 3, 2, 2, 9, 8)), ("prompt-tuning", (1, 9, 32))])
@pytest.mark.parametrize("init", ["text", "random"])
def test_first_state_has_the_shape_of_the_method(tmp_path: Path, method: Method, shape: tuple[int, ...], init) -> None:
    recipe = Recipe(method=method, num_virtual_tokens=9, init=init)
    numbers = initial_numbers(tiny_base(tmp_path), recipe, TEXT)
    assert numbers.shape == shape
    assert numbers.dtype == torch.float32


def test_random_start_has_the_scale_of_real_keys_and_values(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    random = initial_numbers(base, Recipe(num_virtual_tokens=200, init="random"), ())
    real = initial_numbers(base, Recipe(num_virtual_tokens=200), list(range(200)))
    spread, wanted = random.std(dim=(0, 3, 4, 5)), real.std(dim=(0, 3, 4, 5))
    torch.testing.assert_close(spread, wanted, rtol=0.25, atol=0.0)


def test_random_start_follows_its_seed(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    one, same, other = (
        initial_numbers(base, Recipe(num_virtual_tokens=4, init="random", seed=seed), ()) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_text_is_cut_or_repeated_to_the_length() -> None:
    assert stretch([1, 2, 3], 2) == [1, 2]
    assert stretch([1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]


def test_start_without_text_is_refused() -> None:
    with pytest.raises(InvalidRecipeError, match="no text to start the prefix from"):
        stretch([], 4)


def test_stored_prefixes_of_both_methods_stand_in_one_bank(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    methods: tuple[Method, Method] = ("prefix-tuning", "prompt-tuning")
    arrays = []
    for method, length in zip(methods, (6, 4), strict=True):
        numbers = initial_numbers(base, Recipe(method=method, num_virtual_tokens=length), TEXT)
        arrays.append(PrefixArray.of(method, numbers[0].numpy()))
    bank = load_bank(base, arrays)
    assert isinstance(bank, PrefixBank)
    assert bank.lengths == (6, 4)
    torch.testing.assert_close(bank.kv[0][..., :4, :], bank.kv[1][..., :4, :], atol=1e-6, rtol=0)
