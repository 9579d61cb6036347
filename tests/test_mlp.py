"""The MLP reparameterisation: starts where a direct training starts, and leaves nothing but its output."""

import pytest
import torch

from worker.engine.mlp import MLP, MLP_HIDDEN_WIDTH

SHAPES = [(1, 3, 2, 2, 9, 8), (1, 12, 32), (1, 1, 2, 1, MLP_HIDDEN_WIDTH + 1, 4)]


def start(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_network_is_fitted_to_the_start_state(shape: tuple[int, ...]) -> None:
    numbers = start(shape)
    fitted = MLP(numbers, seed=0).numbers()
    assert fitted.dtype == torch.float32
    torch.testing.assert_close(fitted, numbers, atol=2e-5, rtol=0)


def test_repeated_tokens_may_have_different_numbers() -> None:
    numbers = torch.zeros(1, 2, 2, 1, 2, 4)
    numbers[..., 0, :] = 1.0
    torch.testing.assert_close(MLP(numbers, seed=0).numbers(), numbers, atol=1e-5, rtol=0)


def test_everything_is_trained_and_takes_a_gradient() -> None:
    network = MLP(start(SHAPES[0]), seed=0)
    network.numbers().square().sum().backward()
    tensors = [tensor for group in network.groups() for tensor in group.tensors]
    assert len(tensors) == len(network.state())
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in tensors)


def test_state_goes_from_one_network_to_another_bit_for_bit() -> None:
    trained, other = MLP(start(SHAPES[0]), seed=0), MLP(start(SHAPES[0]), seed=1)
    with torch.no_grad():
        for group in trained.groups():
            for tensor in group.tensors:
                tensor.add_(0.1)
    other.load(trained.state())
    assert torch.equal(trained.numbers(), other.numbers())


def test_network_follows_its_seed() -> None:
    one, same, other = (MLP(start(SHAPES[0]), seed=seed).state()["inputs"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
