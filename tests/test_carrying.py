"""Prefixes of a pass: carried through the base together or side by side, each is what it would be alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_base_folder
from worker.engine.base import LoadedBase, load_base
from worker.engine.carrying import PassPrefixes, Share
from worker.engine.example import Example
from worker.engine.prompt_tuning import bank_of
from worker.engine.recipe import Recipe
from worker.engine.reparameterisation import parameterise
from worker.engine.side_by_side import SideBySide

GROWN = Recipe(num_virtual_tokens=4, reparameterisation="propagated")
RECIPES = (
    GROWN,
    replace(GROWN, num_virtual_tokens=6),
    replace(GROWN, method="prompt-tuning", reparameterisation="muon"),
    replace(GROWN, reparameterisation="direct"),
    replace(GROWN, seed=1),
)
TEXTS = tuple(tuple(range(start, start + 9)) for start in range(5, 10))
ROW = Example((5, 6), (7,))


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path, "llama"), device="cpu", dtype="float32")


def shares_of(base: LoadedBase) -> list[Share]:
    """One of each kind, two of them of one length, one that hides a token; none is at its start any more."""
    shares = []
    for index, (recipe, text) in enumerate(zip(RECIPES, TEXTS, strict=True)):
        trained = parameterise(base, recipe, text)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for tensor in (tensor for group in trained.groups() for tensor in group.tensors):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        shares.append(Share(recipe.method, trained, [ROW], torch.tensor([0, 2]) if index == 4 else None))
    return shares


def gradients_of(shares: Sequence[Share]) -> list[Tensor | None]:
    return [tensor.grad for share in shares for group in share.parameterisation.groups() for tensor in group.tensors]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_prefixes_and_gradients_of_a_pass_are_those_of_each_alone(base: LoadedBase, num_workers: int) -> None:
    shares, alone = shares_of(base), shares_of(base)
    prefixes = PassPrefixes(base, shares, SideBySide(base.model, num_workers) if num_workers > 1 else None)
    wanted = []
    for share in alone:
        kv = bank_of(base, share.method, share.parameterisation.numbers()).kv[0]
        wanted.append(kv if share.shown is None else kv[..., share.shown, :])
    torch.testing.assert_close(prefixes.kvs, wanted, atol=1e-6, rtol=1e-5)

    longest = max(kv.shape[-2] for kv in wanted)
    gradients = torch.randn(len(shares), *wanted[0].shape[:3], longest, wanted[0].shape[-1])
    prefixes.leave(gradients)
    for kv, gradient in zip(wanted, gradients, strict=True):
        kv.backward(gradient[..., : kv.shape[-2], :])
    torch.testing.assert_close(gradients_of(shares), gradients_of(alone), atol=1e-5, rtol=1e-4)
    assert all(gradient is not None and gradient.any() for gradient in gradients_of(shares))
