"""Linear layers with rearranged weights: the same numbers and gradients, where layers and machines gain by it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from worker.engine import packed_linear
from worker.engine.packed_linear import is_supported, take_over_linears
from worker.engine.side_by_side import twin

IN, OUT = 256, 320


def make_layer(dtype: torch.dtype, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, OUT, bias=bias)).to(dtype).requires_grad_(False)


def run(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.detach().clone().requires_grad_()
    output = layer(inputs)
    output.backward(torch.linspace(-1, 1, output.numel()).view(output.shape).to(output.dtype))
    assert inputs.grad is not None
    return output.detach(), inputs.grad


def needs(dtype: torch.dtype) -> None:
    if not is_supported(dtype):
        pytest.skip(f"this machine does not multiply rearranged weights in {dtype}")


@pytest.mark.parametrize("bias", [True, False], ids=["with bias", "without bias"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.04)])
def test_products_and_gradients_are_those_of_the_layer(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    needs(dtype)
    layer = make_layer(dtype, bias=bias)
    weight = layer[0].weight.clone()
    for shape in ((1, 1, IN), (2, 7, IN), (300, IN)):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        stock, taken = make_layer(dtype, bias=bias), copy.deepcopy(layer)
        assert take_over_linears(taken) == 1
        for found, right in zip(run(taken, inputs), run(stock, inputs), strict=True):
            torch.testing.assert_close(found, right, atol=tolerance, rtol=0.01)
    assert torch.equal(layer[0].weight, weight)


def test_a_row_gets_what_it_gets_alone_also_without_gradients() -> None:
    needs(torch.float32)
    layer = make_layer(torch.float32)
    inputs = torch.randn(9, IN, generator=torch.Generator().manual_seed(1))
    take_over_linears(layer)
    with torch.inference_mode():
        together, alone = layer(inputs), torch.cat([layer(row[None]) for row in inputs])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(layer(inputs.t().contiguous().t()), together, atol=2e-5, rtol=0)
    run(layer, inputs)  # copies that were made for answers serve training too


def test_twins_share_the_copies() -> None:
    needs(torch.float32)
    layer = make_layer(torch.float32)
    take_over_linears(layer)
    other = twin(layer)  # type: ignore[arg-type, type-var]
    assert other[0] is not layer[0]
    assert other[0].forward.args[0] is layer[0].forward.args[0]


def test_other_inputs_and_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, small, double = make_layer(torch.float32), nn.Sequential(nn.Linear(8, 8)), make_layer(torch.float64)
    trained[0].weight.requires_grad_(True)
    small.requires_grad_(False)
    assert [take_over_linears(layer) for layer in (trained, small, double)] == [0, 0, 0]
    assert take_over_linears(nn.Sequential()) == 0

    monkeypatch.setattr(packed_linear, "total_memory", lambda: 16 * IN * OUT)
    assert take_over_linears(make_layer(torch.float32)) == 0


def test_large_bases_in_bfloat16_have_copies_for_answers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    needs(torch.bfloat16)
    monkeypatch.setattr(packed_linear, "SMALL_BYTES", 0)
    made = []
    pack = packed_linear._packed
    monkeypatch.setattr(packed_linear, "_packed", lambda weight: made.append(weight) or pack(weight))
    layer = make_layer(torch.bfloat16)
    take_over_linears(layer)
    inputs = torch.ones(2, IN, dtype=torch.bfloat16)
    trained, _ = run(layer, inputs)
    with torch.no_grad():
        layer(inputs)
    assert not made
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), trained, atol=0.04, rtol=0.01)
    assert len(made) == 1


def test_a_machine_without_such_products_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise RuntimeError("not here")

    monkeypatch.setattr(packed_linear, "_packed", refuse)
    is_supported.cache_clear()
    layer = make_layer(torch.float32)
    assert take_over_linears(layer) == 0
    assert layer(torch.zeros(1, IN)).shape == (1, OUT)
    monkeypatch.undo()
    is_supported.cache_clear()
