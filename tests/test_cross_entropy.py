"""The loss in chunks: the same numbers as in one piece, and never all logits at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from tests.tiny import VOCAB_SIZE, tiny_model
from worker.engine import cross_entropy
from worker.engine.attention import attending, install
from worker.engine.bank import PrefixBank
from worker.engine.batches import collate
from worker.engine.cross_entropy import chunk_rows, is_linear, linear_cross_entropy
from worker.engine.example import Example
from worker.engine.loss import HEAD_IS_LAST, head_at, target_nll

NUM_TARGETS, WIDTH = 13, 8
ROWS_AT_ONCE = 9  # so that a chunk has more numbers than the output layer


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that any operation gave out."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def make_head(dtype: torch.dtype = torch.float32, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCAB_SIZE, bias=bias).to(dtype).requires_grad_(False)


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = 3 * torch.randn(NUM_TARGETS, WIDTH, generator=generator)
    labels = torch.randint(VOCAB_SIZE, (NUM_TARGETS,), generator=generator)
    return hidden.to(dtype).requires_grad_(), labels, torch.rand(NUM_TARGETS, generator=generator)


def through_all_logits(hidden: Tensor, head: nn.Linear, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    hidden = hidden.detach().requires_grad_()
    nll = nn.functional.cross_entropy(head(hidden).float(), labels, reduction="none")
    (nll * weights).sum().backward()
    assert hidden.grad is not None
    return nll.detach(), hidden.grad


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 5, 100])
def test_chunks_give_the_losses_and_gradients_of_one_piece(
    rows_at_once: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK_NUMBERS, "cpu", rows_at_once * VOCAB_SIZE)
    head, (hidden, labels, weights) = make_head(bias=bias), make_inputs()
    nll = linear_cross_entropy(hidden, head, labels)
    (nll * weights).sum().backward()
    right, gradient = through_all_logits(hidden, head, labels, weights)
    torch.testing.assert_close(nll.detach(), right)
    torch.testing.assert_close(hidden.grad, gradient)


def test_losses_of_labels_that_seem_impossible_keep_their_digits() -> None:
    head = make_head()
    hidden, labels, weights = make_inputs()
    hidden = (200 * hidden.detach()).requires_grad_()
    wanted, of_hidden = through_all_logits(hidden, head, labels, weights)
    assert wanted.max() > 110  # its probability is zero in fp32
    nll = linear_cross_entropy(hidden, head, labels)
    (nll * weights).sum().backward()
    torch.testing.assert_close(nll, wanted, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(hidden.grad, of_hidden, atol=1e-5, rtol=1e-4)


def test_gradients_in_bfloat16_are_near_those_in_fp32() -> None:
    head, (hidden, labels, weights) = make_head(torch.bfloat16), make_inputs(torch.bfloat16)
    (linear_cross_entropy(hidden, head, labels) * weights).sum().backward()
    right = through_all_logits(hidden.float(), head.float(), labels, weights)[1]
    torch.testing.assert_close(hidden.grad.float(), right, atol=0.01, rtol=0.05)  # type: ignore[union-attr]


def test_logits_of_all_targets_never_stand_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK_NUMBERS, "cpu", ROWS_AT_ONCE * VOCAB_SIZE)
    head, (hidden, labels, _) = make_head(), make_inputs()
    with LargestTensor() as largest:
        linear_cross_entropy(hidden, head, labels).sum().backward()
    assert largest.numbers == ROWS_AT_ONCE * VOCAB_SIZE
    with LargestTensor() as largest:
        nn.functional.cross_entropy(head(hidden), labels)
    assert largest.numbers == NUM_TARGETS * VOCAB_SIZE, "the measure itself must see what stands at once"


def test_without_gradients_nothing_is_computed_for_them() -> None:
    head, (hidden, labels, _) = make_head(), make_inputs()
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            products.extend([str(func)] if "mm" in str(func) else [])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Products():
        linear_cross_entropy(hidden.detach(), head, labels)
    assert len(products) == 1


def test_a_huge_vocabulary_is_computed_row_by_row() -> None:
    assert chunk_rows(151_936, torch.device("cpu")) == 110
    assert chunk_rows(10**9, torch.device("cpu")) == 1


def test_only_a_plain_frozen_product_is_taken_apart() -> None:
    assert is_linear(make_head())
    assert not is_linear(make_head().requires_grad_(True))
    assert not is_linear(nn.Sequential(make_head()))


def losses_both_ways(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Losses of two rows by `target_nll`, and from the logits that the whole model gives."""
    install(model)
    batch = collate([Example((1, 2, 3), (4, 5)), Example((6, 7), (8, 9, 10, 11))])
    kv = torch.randn(1, *model_kv_shape(model), generator=torch.Generator().manual_seed(0))
    bank = PrefixBank(kv)
    positions = torch.arange(batch.input_ids.shape[1]).unsqueeze(0) + bank.num_virtual_tokens
    with torch.no_grad(), attending(model, bank, [0, 0]):
        nll = target_nll(model, bank, batch, [0, 0])
        with head_at(model, batch.rows, batch.columns):
            logits = model(input_ids=batch.input_ids, position_ids=positions, use_cache=False).logits[0]
    return nll, nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")


def model_kv_shape(model: PreTrainedModel) -> tuple[int, ...]:
    config = model.config
    return config.num_hidden_layers, 2, config.num_key_value_heads, 4, config.head_dim


def test_loss_of_a_plain_head_is_that_of_the_models_own_logits() -> None:
    model = tiny_model("llama").requires_grad_(False)
    ours, theirs = losses_both_ways(model)
    torch.testing.assert_close(ours, theirs)
    assert getattr(model, HEAD_IS_LAST) is True


def test_loss_of_a_model_that_caps_its_logits_is_that_of_the_capped_ones() -> None:
    model = tiny_model("gemma3_text").requires_grad_(False)
    model.config.final_logit_softcapping = 0.5
    ours, theirs = losses_both_ways(model)
    torch.testing.assert_close(ours, theirs)
    assert getattr(model, HEAD_IS_LAST) is False
