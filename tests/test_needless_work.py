"""Work that a frozen base does not need: gradients of weights, and any below the first layer's prefix."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import tiny_model, tiny_tokenizer
from worker.engine.attention import attending
from worker.engine.bank import PrefixBank
from worker.engine.base import prepare_base
from worker.engine.batches import collate
from worker.engine.example import Example
from worker.engine.families import geometry
from worker.engine.loss import target_nll

LINEARS_OF_A_LAYER = 7
ROWS = [Example((1, 2, 3), (4, 5)), Example((6, 7), (8, 9, 10, 11))]


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return func(*args, **(kwargs or {}))


def test_backward_takes_one_product_a_weight_and_none_below_the_first_prefix() -> None:
    model = tiny_model("llama")
    base = prepare_base(model, tiny_tokenizer(), geometry(model.config.to_dict()))
    num_layers = base.geometry.num_layers
    shape = (1, num_layers, 2, base.geometry.num_kv_heads, 4, base.geometry.head_dim)
    bank = PrefixBank(torch.randn(shape, generator=torch.Generator().manual_seed(0)), trainable=True)
    with attending(base.model, bank, [0, 0]), Products() as forward:
        nll = target_nll(base.model, bank, collate(ROWS), [0, 0])
        with Products() as backward:
            nll.sum().backward()
    below_the_prefix = 3  # queries, keys and values of the first layer are made of the input alone
    assert backward.count == num_layers * LINEARS_OF_A_LAYER - below_the_prefix
    # Besides every weight once: the check of the head at the first loss, and the gradient of the loss, made at once.
    assert forward.count - backward.count <= num_layers * LINEARS_OF_A_LAYER + 4
    assert all(parameter.grad is None for parameter in base.model.parameters())
