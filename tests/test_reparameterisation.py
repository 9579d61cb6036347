"""Every parameterisation trains, resumes bit for bit, and leaves a prefix of the same kind."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import InvalidRecipeError
from worker.engine.events import Checkpointed, Finished
from worker.engine.example import Example
from worker.engine.initialise import initial_numbers
from worker.engine.recipe import Recipe, Reparameterisation
from worker.engine.reparameterisation import parameterise
from worker.engine.train import train

TEXT = (5, 90, 41, 230)
RECIPE = Recipe(num_virtual_tokens=4, learning_rate=0.05, max_steps=6, batch_size=2, eval_every=3)
ROWS = [Example((7, 8, 9 + index), (300, 0)) for index in range(4)]
KINDS = get_args(Reparameterisation)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_start_from_the_same_numbers(base: LoadedBase, kind: Reparameterisation, method) -> None:
    recipe = replace(RECIPE, method=method, reparameterisation=kind)
    trained = parameterise(base, recipe, TEXT).numbers()
    torch.testing.assert_close(trained, initial_numbers(base, recipe, TEXT), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_learns_its_rows(base: LoadedBase, kind: Reparameterisation, method) -> None:
    recipe = replace(RECIPE, method=method, reparameterisation=kind, max_steps=40, eval_every=10)
    finished = list(train(base, ROWS, ROWS, recipe, init_ids=TEXT))[-1]
    assert isinstance(finished, Finished)
    assert finished.validation_loss_after < 0.9 * finished.validation_loss_before


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_is_the_same_bit_for_bit(base: LoadedBase, kind: Reparameterisation) -> None:
    recipe = replace(RECIPE, reparameterisation=kind)
    events = list(train(base, ROWS, ROWS, recipe, init_ids=TEXT))
    kept = next(event for event in events if isinstance(event, Checkpointed) and event.step == 3)
    resumed = list(train(base, ROWS, ROWS, recipe, init_ids=TEXT, resume=kept.state))
    assert np.array_equal(resumed[-1].prefix.values, events[-1].prefix.values)


def test_folded_prefix_is_exactly_what_the_network_puts_out(base: LoadedBase) -> None:
    recipe = replace(RECIPE, reparameterisation="mlp")
    events = list(train(base, ROWS, (), recipe, init_ids=TEXT))
    state = [event.state for event in events if isinstance(event, Checkpointed)][-1]
    network = parameterise(base, recipe, TEXT)
    network.load(
        {name.removeprefix("0.parameters."): tensor for name, tensor in state.tensors.items() if "parameters." in name}
    )
    assert np.array_equal(events[-1].prefix.values, network.numbers()[0].detach().numpy())


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(InvalidRecipeError, match="expected one of direct, muon, mlp"):
        Recipe(reparameterisation="lora")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_grad_norm", "warmup_fraction", "seed"])
def test_number_that_is_not_chosen_automatically_cannot_be_left_open(name: str) -> None:
    with pytest.raises(InvalidRecipeError, match=f"{name} is None; expected a"):
        Recipe.from_dict({name: None})
