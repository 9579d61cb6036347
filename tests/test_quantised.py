"""Bases in 8 and 4 bit: refused with the remedy, or equal to the dequantised model and unchanged by use."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tests.tiny import tiny_base_folder
from tests.tiny_seq2seq import tiny_seq2seq_folder
from worker.engine import quantisation
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase, load_base, weights_hash
from worker.engine.batches import collate
from worker.engine.errors import UnsupportedPrecisionError
from worker.engine.example import Example
from worker.engine.generate import GenerationRow, stream
from worker.engine.loss import target_loss
from worker.engine.quantisation import check_quantisation
from worker.engine.quantised_linear import QuantisedLinear

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (pip install 'prefix-studio[quantised]')"
)
# bitsandbytes and accelerate bring deprecated calls of torch along, which are theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

EXAMPLES = [Example((5, 6, 7, 8), (9, 10, 11)), Example((12, 13), (14, 15, 16, 17, 18))]


def dequantised(folder: Path, quantised: LoadedBase) -> LoadedBase:
    """The base in fp32 with the weights that the quantised one stands for."""
    base = load_base(folder, device="cpu", dtype="float32")
    for name, module in quantised.model.named_modules():
        if isinstance(module, QuantisedLinear):
            target = base.model.get_submodule(name)
            whole = module.weight_as(torch.float32)
            target.weight.data.copy_(whole.T if isinstance(target, Conv1D) else whole)
    return base


def bank_for(base: LoadedBase) -> PrefixBank:
    measured = base.geometry
    shape = (2, measured.num_attentions, 2, measured.num_kv_heads, 3, measured.head_dim)
    return PrefixBank(torch.randn(shape, generator=torch.Generator().manual_seed(1)), trainable=True)


def folder_of(tmp_path: Path, family: str) -> Path:
    build = tiny_seq2seq_folder if family == "t5" else tiny_base_folder
    return build(tmp_path / family, family)


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_quantised_base_gives_loss_and_gradient_of_the_dequantised_model(tmp_path, family, precision):
    folder = folder_of(tmp_path, family)
    base = load_base(folder, device="cpu", dtype=precision)
    whole = dequantised(folder, base)
    assert (base.num_parameters, base.precision, base.dtype) == (whole.num_parameters, precision, torch.float32)
    gradients = []
    for each in (base, whole):
        bank = bank_for(each)
        loss = target_loss(each.model, bank, collate(EXAMPLES, each.decoder_start_ids))
        loss.backward()
        gradients.append((loss.detach(), bank.kv.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-4, rtol=0)
    assert gradients[0][1][0].abs().max() > 1e-3


@needs_bitsandbytes
@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_quantised_weights_take_as_many_bits_and_come_close(tmp_path, precision, bits):
    folder = folder_of(tmp_path, "llama")
    base = load_base(folder, device="cpu", dtype=precision)
    original = load_base(folder, device="cpu").model
    layers = {name: each for name, each in base.model.named_modules() if isinstance(each, QuantisedLinear)}
    assert len(layers) == 3 * 7
    for name, layer in layers.items():
        assert layer.packed.nbytes * 8 == layer.out_features * layer.in_features * bits
        error = (layer.weight_as(torch.float32) - original.get_submodule(name).weight).norm()
        assert error < (0.01 if precision == "int8" else 0.15) * original.get_submodule(name).weight.norm()


@needs_bitsandbytes
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_base_is_unchanged_by_use_and_answers_each_row_as_alone(tmp_path, precision):
    base = load_base(folder_of(tmp_path, "llama"), device="cpu", dtype=precision)
    before = weights_hash(base.model)
    bank = PrefixBank(bank_for(base).kv.detach())
    rows = [
        GenerationRow((5, 6, 7, 8), slot=0, max_new_tokens=6),
        GenerationRow((9, 10), slot=NO_PREFIX, max_new_tokens=6),
        GenerationRow((9, 10), slot=1, max_new_tokens=6),
    ]

    def tokens(batch: list[GenerationRow]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in batch]
        for events in stream(base, bank, batch):
            for event in events:
                found[event.row].append(event.token_id)
        return found

    assert tokens(rows) == [tokens([row])[0] for row in rows]
    assert weights_hash(base.model) == before


def test_missing_package_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(UnsupportedPrecisionError, match=r"needs the package bitsandbytes.*prefix-studio\[quantised\]"):
        check_quantisation("int4", platform="linux")
    with pytest.raises(UnsupportedPrecisionError, match="bitsandbytes"):
        load_base(folder_of(tmp_path, "llama"), device="cpu", dtype="int8")
    check_quantisation("float32")


def test_hardware_without_a_library_is_refused(monkeypatch):
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    with pytest.raises(UnsupportedPrecisionError, match="needs Linux or Windows"):
        check_quantisation("int8", platform="darwin")
    check_quantisation("int8", platform="linux")


def test_mixture_of_experts_is_refused_because_its_experts_would_stay_whole(monkeypatch):
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    with pytest.raises(UnsupportedPrecisionError, match="experts of a qwen3_moe model"):
        check_quantisation("int4", "qwen3_moe", platform="linux")
