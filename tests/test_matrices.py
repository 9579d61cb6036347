"""The prefix as matrices: starts as the text, and steps in units of the spread of keys and values."""

import pytest
import torch

from worker.engine.matrices import MIN_SPREAD, Matrices, spread_of
from worker.engine.optimiser import Optimiser
from worker.engine.recipe import Method

START = torch.randn((1, 3, 2, 2, 9, 8), generator=torch.Generator().manual_seed(0))


def step(trained: Matrices, gradient: torch.Tensor, rate: float = 0.1) -> torch.Tensor:
    before = trained.numbers().detach().clone()
    (trained.numbers() * gradient).sum().backward()
    optimiser = Optimiser(trained, weight_decay=0.0, max_grad_norm=1.0)
    optimiser.step(rate, optimiser.gradient_norm())
    return trained.numbers().detach() - before


@pytest.mark.parametrize(
    ("method", "start"),
    [("prefix-tuning", START), ("prompt-tuning", torch.randn(1, 5, 32)), ("prefix-tuning", START[..., :1, :])],
)
def test_first_state_is_the_start_itself(method: Method, start: torch.Tensor) -> None:
    assert torch.equal(Matrices(method, start).numbers(), start)


def test_step_moves_numbers_by_a_share_of_their_spread() -> None:
    start = START.clone()
    start[:, 2] *= 10
    moved = step(Matrices("prefix-tuning", start), torch.randn(START.shape), rate=0.1)
    relative = moved.square().mean((-2, -1)).sqrt() / spread_of(start)[..., 0, 0]
    torch.testing.assert_close(relative, torch.full_like(relative, 0.1), rtol=0.4, atol=0)


def test_heads_of_a_layer_are_one_matrix_and_kinds_and_layers_are_not() -> None:
    gradient = torch.zeros(START.shape)
    gradient[0, 1, 0, 0] = torch.randn(9, 8)
    moved = step(Matrices("prefix-tuning", START), gradient)
    assert moved[0, 1, 0, 0].abs().max() > 0
    moved[0, 1, 0] = 0
    assert moved.abs().max() == 0


def test_keys_take_their_own_rate() -> None:
    moved = step(Matrices("prefix-tuning", START, key_rate_factor=0.0), torch.randn(START.shape))
    assert moved[:, :, 0].abs().max() == 0
    assert moved[:, :, 1].abs().max() > 0


def test_state_goes_over_with_its_start() -> None:
    trained = Matrices("prefix-tuning", START)
    step(trained, torch.randn(START.shape))
    other = Matrices("prefix-tuning", START + 1e-3)
    other.load(trained.state())
    assert torch.equal(other.numbers(), trained.numbers())


def test_tokens_that_are_alike_keep_a_spread() -> None:
    same = torch.ones(1, 1, 2, 1, 4, 8)
    torch.testing.assert_close(spread_of(same), torch.full((1, 1, 2, 1, 1, 1), MIN_SPREAD))
    assert spread_of(torch.zeros(1, 1, 2, 1, 4, 8)).min() > 0
