"""What is trained: keys and values apart, the prefix that they make, and their state."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine.base import load_base
from worker.engine.example import Example
from worker.engine.initialise import initial_numbers
from worker.engine.parameterisation import Direct
from worker.engine.recipe import Recipe
from worker.engine.reparameterisation import parameterise
from worker.engine.train import train

TEXT = (5, 90, 41, 230)
RECIPE = Recipe(num_virtual_tokens=4, learning_rate=0.05, max_steps=3, batch_size=2, eval_every=3)
ROWS = [Example((7, 8, 9 + index), (300, 0)) for index in range(4)]


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_direct_parameterisation_starts_as_the_text(tmp_path: Path, method) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base"), device="cpu")
    recipe = replace(RECIPE, method=method)
    trained = parameterise(base, recipe, TEXT)
    torch.testing.assert_close(trained.numbers(), initial_numbers(base, recipe, TEXT), rtol=0, atol=0)


def test_gradient_reaches_keys_and_values_apart() -> None:
    trained = Direct("prefix-tuning", torch.randn(1, 3, 2, 2, 4, 8), key_rate_factor=0.25)
    trained.numbers()[:, :, 1].sum().backward()
    keys, values = trained.groups()
    assert (keys.rate_factor, values.rate_factor) == (0.25, 1.0)
    assert keys.tensors[0].grad.abs().sum() == 0
    assert (values.tensors[0].grad == 1).all()


def test_state_is_a_copy_that_can_be_taken_back() -> None:
    trained = Direct("prefix-tuning", torch.randn(1, 3, 2, 2, 4, 8))
    before, state = trained.numbers().detach().clone(), trained.state()
    with torch.no_grad():
        trained.groups()[0].tensors[0].add_(1.0)
    assert not torch.equal(trained.numbers(), before)
    trained.load(state)
    assert torch.equal(trained.numbers(), before)


def test_keys_with_rate_factor_zero_stay_as_they_start(tmp_path: Path) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base"), device="cpu")
    recipe = replace(RECIPE, key_rate_factor=0.0)
    start = initial_numbers(base, recipe, TEXT)[0].numpy()
    values = list(train(base, ROWS, (), recipe, init_ids=TEXT))[-1].prefix.values
    assert (values[:, 0] == start[:, 0]).all()
    assert (values[:, 1] != start[:, 1]).any()
