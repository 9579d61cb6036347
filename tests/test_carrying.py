"""Prefixes of a pass: carried through the base together or side by side, each is what it would be alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_base_folder
from worker.engine.bank import SlotPrefix
from worker.engine.base import LoadedBase, load_base
from worker.engine.carrying import PassPrefixes, Share
from worker.engine.example import Example
from worker.engine.prompt_tuning import kv_of_vectors
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
    replace(GROWN, method="prefix-tuning-plus"),
)
TEXTS = tuple(tuple(range(start, start + 9)) for start in range(5, 11))
ROW = Example((5, 6), (7,))


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path, "llama"), device="cpu", dtype="float32")


def shares_of(base: LoadedBase) -> list[Share]:
    """One of each kind, several of one length, one that hides tokens; none is at its start any more."""
    shares = []
    for index, (recipe, text) in enumerate(zip(RECIPES, TEXTS, strict=True)):
        trained = parameterise(base, recipe, text)
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for tensor in (tensor for group in trained.groups() for tensor in group.tensors):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        shares.append(Share(recipe.method, trained, [ROW], torch.tensor([0, 2]) if index == 4 else None))
    return shares


def prefix_of(base: LoadedBase, share: Share) -> SlotPrefix:
    """What a share's rows see, computed without the others."""
    numbers = share.parameterisation.numbers()
    kv = kv_of_vectors(base, numbers) if share.method == "prompt-tuning" else numbers
    whole = SlotPrefix.of(share.method, kv[0])
    return whole if share.shown is None else SlotPrefix(whole.kv[..., share.shown, :], whole.outside)


def numbers_of(prefixes: Sequence[SlotPrefix]) -> list[Tensor]:
    return [tensor for prefix in prefixes for tensor in (prefix.kv, prefix.outside) if tensor is not None]


def gradients_of(shares: Sequence[Share]) -> list[Tensor | None]:
    return [tensor.grad for share in shares for group in share.parameterisation.groups() for tensor in group.tensors]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_prefixes_and_gradients_of_a_pass_are_those_of_each_alone(base: LoadedBase, num_workers: int) -> None:
    shares, alone = shares_of(base), shares_of(base)
    prefixes = PassPrefixes(base, shares, SideBySide(base.model, num_workers) if num_workers > 1 else None)
    wanted = [prefix_of(base, share) for share in alone]
    torch.testing.assert_close(numbers_of(prefixes.prefixes), numbers_of(wanted), atol=1e-6, rtol=1e-5)

    longest = max(prefix.num_virtual_tokens for prefix in wanted)
    shape = wanted[0].kv.shape
    of_kv, of_outside = (torch.randn(len(shares), *shape[:3], longest, shape[-1]) for _ in range(2))
    prefixes.leave(of_kv, of_outside)
    for index, prefix in enumerate(wanted):
        pairs = [(prefix.kv, of_kv[index]), (prefix.outside, of_outside[index])]
        tensors, gradients = zip(*((a, b[..., : a.shape[-2], :]) for a, b in pairs if a is not None), strict=True)
        torch.autograd.backward(tensors, gradients)
    torch.testing.assert_close(gradients_of(shares), gradients_of(alone), atol=1e-5, rtol=1e-4)
    assert all(gradient is not None and gradient.any() for gradient in gradients_of(shares))
