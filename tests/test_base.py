"""Loading a base: frozen, safe, and the same as the model on disk."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, tiny_base_folder, tiny_model
from worker.engine import base as base_module
from worker.engine.base import choose_dtype, load_base, weights_hash
from worker.engine.errors import UnsupportedModelError


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_base_computes_what_the_model_on_disk_computes(tmp_path: Path, family: str) -> None:
    folder = tiny_base_folder(tmp_path / "base", family)
    base = load_base(folder, device="cpu")
    ids = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        stock = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()(ids).logits
        assert torch.equal(base.model(ids).logits, stock)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.tokenizer.pad_token is not None
    assert base.geometry.num_layers == base.model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("has_instructions", "stored", "chosen"),
    [
        (True, "bfloat16", torch.bfloat16),
        (True, "float32", torch.float32),
        (True, "float16", torch.float32),
        (True, None, torch.float32),
        (False, "bfloat16", torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_is_fast_and_weights_lose_nothing(
    has_instructions: bool, stored: str | None, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "cpu_has_bfloat16", lambda: has_instructions)
    assert choose_dtype("auto", torch.device("cpu"), stored) == chosen
    assert choose_dtype("float32", torch.device("cpu"), stored) == torch.float32


def test_an_asked_for_precision_is_taken(tmp_path: Path) -> None:
    folder = tiny_base_folder(tmp_path / "base")
    assert load_base(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_hash_sees_a_single_changed_weight() -> None:
    model = tiny_model("llama")
    before = weights_hash(model)
    assert weights_hash(tiny_model("llama")) == before
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert weights_hash(model) != before


def test_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = tiny_base_folder(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="holds no safetensors weights"):
        load_base(folder)


def test_folder_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tiny_base_folder(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(UnsupportedModelError, match="its own program code"):
        load_base(folder)


def test_damaged_config_is_refused(tmp_path: Path) -> None:
    folder = tiny_base_folder(tmp_path / "base")
    (folder / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match="no readable config"):
        load_base(folder)
