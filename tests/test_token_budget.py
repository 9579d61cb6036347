"""How many tokens are computed at once, and what a training does when memory is short."""

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine import token_budget as budget_module
from worker.engine import update as update_module
from worker.engine.base import load_base
from worker.engine.carrying import Share
from worker.engine.example import Example
from worker.engine.families import Geometry
from worker.engine.parameterisation import Direct
from worker.engine.token_budget import FASTEST_TOKENS, TokenBudget, token_budget
from worker.engine.update import Updater

GEOMETRY = Geometry(
    num_layers=10, num_kv_heads=2, head_dim=64, hidden_size=1000, vocab_size=100, context_length=512,
    num_heads=8, intermediate_size=2500,
)  # fmt: skip
BYTES_PER_TOKEN = 10 * (10 * 1000 + 4 * 2500) * 4
CPU = torch.device("cpu")


def test_plenty_of_memory_gives_the_fastest_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "available_memory", lambda: 10**12)
    assert token_budget(GEOMETRY, CPU, torch.float32).tokens == FASTEST_TOKENS["cpu"]


def test_half_of_scarce_memory_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "available_memory", lambda: 200 * BYTES_PER_TOKEN)
    assert token_budget(GEOMETRY, CPU, torch.float32) == TokenBudget(tokens=100, bearable=100)
    assert token_budget(GEOMETRY, CPU, torch.bfloat16).bearable == 200


def test_without_any_memory_a_row_is_still_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "available_memory", lambda: 0)
    assert token_budget(GEOMETRY, CPU, torch.float32) == TokenBudget(tokens=1, bearable=0)


def gradient_under(budget: TokenBudget, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, bool]:
    monkeypatch.setattr(update_module, "token_budget", lambda *about: budget)
    base = load_base(folder, device="cpu")
    measured = base.geometry
    shape = (1, measured.num_layers, 2, measured.num_kv_heads, 4, measured.head_dim)
    trained = Direct("prefix-tuning", torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    updater = Updater(base)
    rows = [Example(tuple(range(1, 4 + index)), (5, 6, 7)) for index in range(5)]
    updater.accumulate([Share("prefix-tuning", trained, rows)])
    gradients = [tensor.grad for group in trained.groups() for tensor in group.tensors]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]), updater.is_checkpointing


def test_small_parts_and_checkpointing_change_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_base_folder(tmp_path / "base")
    whole, was_checkpointed = gradient_under(TokenBudget(1536, 1536), folder, monkeypatch)
    assert not was_checkpointed
    parted, _ = gradient_under(TokenBudget(12, 12), folder, monkeypatch)
    torch.testing.assert_close(parted, whole, atol=1e-6, rtol=1e-5)
    again, is_checkpointed = gradient_under(TokenBudget(12, 8), folder, monkeypatch)
    assert is_checkpointed
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=1e-5)
