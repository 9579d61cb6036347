"""Attention on a CPU by products of matrices against torch's own, and by the memory that it keeps."""

import pytest
import torch
from torch import Tensor

from worker.engine import dense_attention
from worker.engine.dense_attention import answers_by_products, attend, attend_answers, can_attend

NUM_ROWS, NUM_HEADS, NUM_KV_HEADS, WIDTH = 2, 4, 2, 8
LENGTH, NUM_KEYS = 7, 12


def make_inputs(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(NUM_ROWS, LENGTH, NUM_HEADS, WIDTH, generator=generator).transpose(1, 2)
    key, value = (torch.randn(NUM_ROWS, NUM_KV_HEADS, NUM_KEYS, WIDTH, generator=generator) for _ in range(2))
    query, key, value = (tensor.to(dtype).requires_grad_() for tensor in (query, key, value))
    return query, key, value


def lower_right(num_rows: int = 1) -> Tensor:
    mask = torch.ones(num_rows, 1, LENGTH, NUM_KEYS, dtype=torch.bool).tril(NUM_KEYS - LENGTH)
    mask[-1, :, :, :2] = num_rows == 1  # with a mask a row, the last row does not see the first two keys
    return mask


def exact(inputs: tuple[Tensor, ...], mask: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and gradients in fp64 by the definition of attention."""
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in inputs)
    keys, values = (tensor.repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1) for tensor in (key, value))
    scores = (query @ keys.transpose(2, 3)) * 0.5
    output = (scores.masked_fill(~mask, -1e30).softmax(-1) @ values).transpose(1, 2)
    output.backward(gradient.double())
    return [output.detach(), query.grad, key.grad, value.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("mask_rows", [1, NUM_ROWS], ids=["one mask", "a mask a row"])
@pytest.mark.parametrize("max_kept_keys", [512, 1], ids=["weights kept", "weights computed again"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_attention_and_its_gradients_are_right(
    dtype: torch.dtype, tolerance: float, max_kept_keys: int, mask_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_attention, "MAX_KEPT_KEYS", max_kept_keys)
    inputs, mask = make_inputs(dtype), lower_right(mask_rows)
    gradient = torch.randn(NUM_ROWS, LENGTH, NUM_HEADS, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    output = attend(*inputs, mask, 0.5)
    output.backward(gradient)
    found = [output.detach(), *(tensor.grad for tensor in inputs)]
    for ours, right in zip(found, exact(inputs, mask, gradient), strict=True):
        assert ours is not None
        torch.testing.assert_close(ours.double(), right, atol=tolerance, rtol=0)


def test_attention_in_bfloat16_is_as_exact_as_the_eager_attention_of_transformers() -> None:
    inputs, mask = make_inputs(torch.bfloat16), lower_right()
    query, key, value = (tensor.detach() for tensor in inputs)
    keys, values = (tensor.repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1) for tensor in (key, value))
    scores = ((query @ keys.transpose(2, 3)) * 0.5).masked_fill(~mask, -1e30)
    eager = (scores.softmax(-1, dtype=torch.float32).to(torch.bfloat16) @ values).transpose(1, 2)
    right = exact(inputs, mask, torch.zeros(NUM_ROWS, LENGTH, NUM_HEADS, WIDTH))[0]
    error, eager_error = ((output.double() - right).abs().mean() for output in (attend(*inputs, mask, 0.5), eager))
    assert error <= 1.1 * eager_error


def test_queries_that_need_no_gradient_get_none() -> None:
    query, key, value = make_inputs(torch.bfloat16)
    output = attend(query.detach(), key, value, lower_right(), None)
    output.sum().backward()
    assert query.grad is None
    assert key.grad is not None


def test_a_query_that_sees_nothing_gives_numbers() -> None:
    mask = lower_right(NUM_ROWS)
    mask[1] = False
    assert torch.isfinite(attend(*make_inputs(torch.bfloat16), mask, None)).all()


def test_heads_with_masks_of_their_own_are_left_to_torch() -> None:
    query, _, _ = make_inputs(torch.float32)
    assert can_attend(query, lower_right(), {})
    assert not can_attend(query, lower_right().expand(1, NUM_HEADS, -1, -1), {})
    assert not can_attend(query, lower_right().float(), {})
    assert not can_attend(query, lower_right(), {"position_bias": query})
    assert not can_attend(query, lower_right(), {"dropout": 0.1})
    assert not can_attend(query[:, :, :1], lower_right()[:, :, :1], {})


@pytest.mark.parametrize("length", [LENGTH, 1], ids=["a piece of a prompt", "one query a row"])
@pytest.mark.parametrize("mask_heads", [1, NUM_HEADS], ids=["one mask for all heads", "a mask a head"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_answers_by_products_are_right(dtype: torch.dtype, tolerance: float, mask_heads: int, length: int) -> None:
    query, key, value = (tensor.detach() for tensor in make_inputs(dtype))
    query, visible = query[:, :, -length:], lower_right(NUM_ROWS)[:, :, -length:]
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, -torch.inf).repeat(1, mask_heads, 1, 1)
    room = torch.zeros(2, NUM_ROWS + 1, NUM_KV_HEADS, NUM_KEYS + 3, WIDTH, dtype=dtype)
    room[:, :NUM_ROWS, :, :NUM_KEYS] = torch.stack([key, value])
    kept_key, kept_value = room[:, :NUM_ROWS, :, :NUM_KEYS]

    found = attend_answers(query, kept_key, kept_value, mask, 0.5)
    right = exact((query, key, value), visible, torch.zeros(NUM_ROWS, length, NUM_HEADS, WIDTH))[0]
    torch.testing.assert_close(found.transpose(1, 2).double(), right, atol=tolerance, rtol=0)
    unmasked = attend_answers(query, kept_key, kept_value, None, None)
    everything = attend_answers(query, kept_key, kept_value, torch.zeros(1, 1, 1, NUM_KEYS, dtype=dtype), WIDTH**-0.5)
    assert torch.equal(unmasked, everything)


def test_few_keys_and_other_number_formats_are_left_to_torch() -> None:
    query, key, _ = (tensor.detach().bfloat16() for tensor in make_inputs(torch.bfloat16))
    many_keys = key.repeat(1, 1, 100, 1)
    assert answers_by_products(query[:, :, :1], many_keys)
    assert not answers_by_products(query[:, :, :1], key)
    assert not answers_by_products(query[:, :, :1].float(), many_keys.float())
    assert answers_by_products(query, key)
    assert not answers_by_products(query, key.repeat(1, 1, 1000, 1).repeat(1, 1, 10, 1))
