"""The frozen RMSNorm against the families' own: the same forward bit for bit, the same gradient, less kept."""

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import VOCAB_SIZE, tiny_model
from worker.engine.frozen_norm import take_over_norms

WIDTH = 32


def norm_of(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = tiny_model(family).requires_grad_(False).to(dtype)
    norm = model.base_model.norm
    nn.init.normal_(norm.weight, mean=1.0, generator=torch.Generator().manual_seed(3))
    assert take_over_norms(model) > 0
    return norm


def stock_of(norm: nn.Module, hidden: Tensor) -> Tensor:
    return type(norm).forward(norm, hidden)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
def test_output_is_equal_and_the_gradient_is_right(family: str, dtype: torch.dtype, tolerance: float) -> None:
    norm = norm_of(family, dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, WIDTH, generator=generator).to(dtype).requires_grad_()
    gradient = torch.randn(2, 5, WIDTH, generator=generator).to(dtype)
    ours = norm(hidden)
    (found,) = torch.autograd.grad(ours, hidden, gradient)
    theirs = stock_of(norm, hidden)
    (right,) = torch.autograd.grad(theirs, hidden, gradient)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(found, right, atol=tolerance, rtol=0)


def test_a_norm_that_computes_otherwise_is_left_alone() -> None:
    assert take_over_norms(tiny_model("gemma3_text").requires_grad_(False)) == 0
    assert take_over_norms(tiny_model("gpt2").requires_grad_(False)) == 0


def test_trained_weights_are_left_alone() -> None:
    assert take_over_norms(tiny_model("llama")) == 0


def test_no_layer_is_replaced_twice() -> None:
    model = tiny_model("llama").requires_grad_(False)
    assert take_over_norms(model) == 2 * model.config.num_hidden_layers + 1
    assert take_over_norms(model) == 0


def test_half_as_much_is_kept_in_bfloat16() -> None:
    norm = norm_of("llama", torch.bfloat16)
    hidden = torch.randn(1, 64, WIDTH).to(torch.bfloat16).requires_grad_()

    def kept_bytes(forward: nn.Module | type) -> int:
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            forward(hidden)
        return sum(kept.values())

    assert kept_bytes(norm) < 0.6 * kept_bytes(lambda values: stock_of(norm, values))  # type: ignore[arg-type]


def test_a_model_gives_the_same_logits_without_gradients() -> None:
    model = tiny_model("llama").requires_grad_(False)
    ids = torch.randint(VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids).logits
        take_over_norms(model)
        assert torch.equal(model(ids).logits, before)
