"""Parts of a pass on threads of their own: the same gradients, the same errors, the cores given back."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.test_slots import INIT_IDS, RECIPES, rows
from tests.tiny import tiny_base_folder
from worker.engine import update
from worker.engine.base import LoadedBase, load_base, weights_hash
from worker.engine.batches import SlotRow, micro_batches, padded_tokens
from worker.engine.carrying import Share
from worker.engine.example import Example
from worker.engine.reparameterisation import parameterise
from worker.engine.side_by_side import SideBySide, dealt, twin
from worker.engine.token_budget import TokenBudget
from worker.engine.train import train_together
from worker.engine.training import Training


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


def updater(base: LoadedBase, max_tokens: int) -> update.Updater:
    made = update.Updater(base)
    made.budget = TokenBudget(max_tokens, bearable=100_000)
    return made


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_gradients_are_those_of_one_part_after_the_other(base: LoadedBase, method, monkeypatch) -> None:
    recipes = [replace(recipe, method=method) for recipe in RECIPES[:3]]
    results = []
    for max_tokens in (10_000, 60):
        trained = [parameterise(base, recipe, INIT_IDS) for recipe in recipes]
        shares = [Share(method, one, rows(8, seed)) for seed, one in enumerate(trained)]
        losses = updater(base, max_tokens).accumulate(shares)
        gradients = [tensor.grad for one in trained for group in one.groups() for tensor in group.tensors]
        results.append((losses, gradients))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("two_cores")
def test_pass_on_threads_is_the_same_every_time(base: LoadedBase) -> None:
    shares_of = [rows(16, seed) for seed in (1, 2)]
    gradients = []
    for _ in range(3):
        trained = [parameterise(base, RECIPES[0], INIT_IDS) for _ in shares_of]
        wanted = [Share("prefix-tuning", one, of_one) for one, of_one in zip(trained, shares_of, strict=True)]
        updater(base, 50).accumulate(wanted)
        gradients.append([tensor.grad for one in trained for group in one.groups() for tensor in group.tensors])
    assert all(torch.equal(a, b) for again in gradients[1:] for a, b in zip(gradients[0], again, strict=True))


def test_twin_shares_every_weight_and_no_attached_prefix(base: LoadedBase) -> None:
    other = twin(base.model)
    before = weights_hash(base.model)
    assert weights_hash(other) == before
    pairs = zip(base.model.parameters(), other.parameters(), strict=True)
    assert all(mine is its for mine, its in pairs)
    assert other.prefix_attachment is not base.model.prefix_attachment
    layers = [module.prefix_attachment for module in other.modules()]
    assert all(attachment is other.prefix_attachment for attachment in layers)


@pytest.mark.usefixtures("two_cores")
def test_error_of_one_part_is_raised_and_the_cores_are_given_back(base: LoadedBase) -> None:
    def compute(model, share: list[int]) -> int:
        if share == [2]:
            raise RuntimeError("out of memory")
        return torch.get_num_threads()

    workers = SideBySide(base.model, 2)
    with pytest.raises(RuntimeError, match="out of memory"):
        workers.map(compute, [[1], [2]])
    assert torch.get_num_threads() == 2
    assert workers.map(compute, [[1], [3]]) == [1, 1]


@pytest.mark.usefixtures("two_cores")
def test_memory_that_runs_out_on_a_thread_halves_the_parts(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = update.target_nll, []

    def scarce(model, bank, batch, slots):
        sizes.append(len(slots))
        if len(slots) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, bank, batch, slots)

    monkeypatch.setattr(update, "target_nll", scarce)
    trained = parameterise(base, RECIPES[0], INIT_IDS)
    losses = updater(base, 100).accumulate([Share("prefix-tuning", trained, rows(16, 1))])
    assert losses[0] > 0
    assert sizes[-1] <= 3


def test_wide_bases_leave_the_cores_to_their_operators(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update.torch, "get_num_threads", lambda: 2)
    made = updater(base, 100)
    assert made._num_workers(longest=50) == 2
    made.budget = TokenBudget(100, bearable=150)
    assert made._num_workers(longest=50) == 1
    made.base = replace(base, geometry=replace(base.geometry, hidden_size=1024))
    made.budget = TokenBudget(100, bearable=100_000)
    assert made._num_workers(longest=50) == 1


def test_parts_side_by_side_cost_about_the_same() -> None:
    pooled = [SlotRow(0, Example((1,) * (length - 1), (2,))) for length in (5, 6, 7, 8, 30, 31, 32, 33, 34, 35)]
    parts = micro_batches(pooled, max_rows=100, max_tokens=100, multiple=2)
    assert len(parts) % 2 == 0
    assert max(padded_tokens(part) for part in parts) <= 100
    assert dealt(["a", "b", "c"], [1.0, 3.0, 1.5], 2) == [["b"], ["c", "a"]]


@pytest.mark.usefixtures("two_cores")
def test_trainings_on_threads_end_like_trainings_in_one_part(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Training(rows(20, seed), rows(5, 90), replace(RECIPES[seed], max_steps=5), INIT_IDS) for seed in (0, 1)]
    finished = []
    for max_tokens in (10_000, 60):
        monkeypatch.setattr(update, "token_budget", lambda *_, size=max_tokens: TokenBudget(size, 100_000))
        finished.append([event.prefix.values for _, event in train_together(base, wanted) if hasattr(event, "prefix")])
    for one, other in zip(*finished, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other), atol=1e-4, rtol=0)
