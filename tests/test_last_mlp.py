"""The last feed-forward block at the places that count: the same losses and gradients, for less work."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.tiny import FAMILIES, tiny_model
from worker.engine.attention import attending, install
from worker.engine.bank import PrefixBank
from worker.engine.batches import collate
from worker.engine.checkpointing import checkpointed_layers
from worker.engine.example import Example
from worker.engine.last_mlp import find_last_mlp
from worker.engine.loss import target_nll

ROWS = [Example((1, 2, 3), (4, 5)), Example((6, 7, 8, 9, 10), (11,))]


def loss_and_gradient(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    shape = (1, config.num_hidden_layers, 2, heads, 4, width)
    bank = PrefixBank(torch.randn(shape, generator=torch.Generator().manual_seed(0)), trainable=True)
    with attending(model, bank, [0, 0]):
        nll = target_nll(model, bank, collate(ROWS), [0, 0])
        nll.sum().backward()
    assert bank.kv.grad is not None
    return nll.detach(), bank.kv.grad


def places_seen(mlp: nn.Module) -> list[int]:
    seen: list[int] = []
    linear = next(module for module in mlp.modules() if not list(module.children()) and list(module.parameters()))
    linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_stay_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family).requires_grad_(False)
    install(model)
    mlp = find_last_mlp(model)
    assert mlp is not None
    seen = places_seen(mlp)
    nll, gradient = loss_and_gradient(model)
    assert set(seen) == {sum(len(row.target_ids) for row in ROWS)}
    monkeypatch.setattr("worker.engine.last_mlp.find_last_mlp", lambda model: None)
    right, right_gradient = loss_and_gradient(model)
    assert seen[-1] == 2 * max(len(row) for row in ROWS), "the comparison must compute all places"
    torch.testing.assert_close(nll, right, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, right_gradient, atol=1e-6, rtol=1e-5)


def test_a_checkpointed_layer_computes_all_places() -> None:
    model = tiny_model("llama").requires_grad_(False)
    install(model)
    right = loss_and_gradient(model)
    with checkpointed_layers(model):
        assert find_last_mlp(model) is None
        found = loss_and_gradient(model)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_hooks_are_gone_afterwards() -> None:
    model = tiny_model("llama").requires_grad_(False)
    install(model)
    loss_and_gradient(model)
    mlp = find_last_mlp(model)
    assert mlp is not None
    assert mlp(torch.zeros(1, 3, model.config.hidden_size)).shape == (1, 3, model.config.hidden_size)
