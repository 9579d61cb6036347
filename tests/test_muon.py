"""Muon: orthogonal updates of one scale, matrix by matrix."""

import pytest
import torch

from worker.engine.muon import MOMENTUM, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(64, 128), (128, 32), (3, 2, 16, 64)])
def test_singular_values_become_alike_and_elements_have_the_scale_of_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    update = orthogonalised(torch.randn(shape))
    values = torch.linalg.svdvals(update) / max(shape[-2:]) ** 0.5
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert update.pow(2).mean().sqrt() == pytest.approx(1.0, abs=0.15)


def test_directions_of_a_matrix_stay_its_own() -> None:
    torch.manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(8, 8))
    right, _ = torch.linalg.qr(torch.randn(8, 8))
    update = left.T @ orthogonalised(left @ torch.diag(torch.linspace(1.0, 2.0, 8)) @ right.T) @ right
    off_diagonal = update - torch.diag(update.diagonal())
    assert off_diagonal.abs().max() < 1e-4


def test_matrices_of_a_stack_do_not_mix() -> None:
    torch.manual_seed(2)
    stack = torch.randn(2, 4, 6)
    torch.testing.assert_close(orthogonalised(stack)[1], orthogonalised(stack[1]))


def test_zero_gradient_moves_nothing() -> None:
    weight = torch.ones(4, 6, requires_grad=True)
    weight.grad = torch.zeros(4, 6)
    muon = Muon([{"params": [weight]}])
    muon.param_groups[0]["lr"] = 0.1
    muon.step()
    assert torch.equal(weight.detach(), torch.ones(4, 6))


def test_momentum_carries_a_step_on() -> None:
    weight = torch.zeros(4, 6, requires_grad=True)
    muon = Muon([{"params": [weight]}])
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        weight.grad = gradient.clone()
        muon.step()
    torch.testing.assert_close(muon.state[weight]["momentum"], gradient * (1 + MOMENTUM))
