"""Every family that is offered against PEFT: logits, gradients, checkpointing, mixed rows, save and reload."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from tests.tiny_families import MIXTURES, VOCAB_SIZE, family_model
from worker.engine.attention import attending, install, recording
from worker.engine.bank import PrefixBank, position_ids_for
from worker.engine.checkpointing import checkpointed_layers
from worker.engine.families import SUPPORTED_FAMILIES, Geometry, geometry
from worker.engine.prefix_file import PrefixArray, read_peft_folder, write_peft_folder

# PEFT still asks transformers by a name that goes away in its next major version.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NUM_VIRTUAL_TOKENS = 5
FAMILIES = sorted(SUPPORTED_FAMILIES)


EAGER = {"gemma2", "gpt_oss"}
"""Families with soft caps or sinks, whose own attention takes the softmax in fp32."""


def tolerance(family: str) -> float:
    return 2e-5 if family in MIXTURES | EAGER else 1e-9


def stock(family: str) -> PreTrainedModel:
    """The model that PEFT gets, with the attention that transformers chooses for it by default."""
    model = family_model(family)
    if family not in EAGER:
        model.set_attn_implementation("sdpa")
    return model


def measured(model: PreTrainedModel) -> Geometry:
    return geometry(json.loads(model.config.to_json_string()))


def real_kv(model: PreTrainedModel, seed: int) -> Tensor:
    """`[1, L, 2, H_kv, P, D]` of random tokens; of what differs from PEFT's start, a real text's K/V are the harder."""
    ids = torch.randint(2, VOCAB_SIZE, (1, NUM_VIRTUAL_TOKENS), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), recording(model) as recorded:
        model(ids, use_cache=False)
    # PEFT keeps its numbers in fp32.
    return recorded.stacked().float().to(model.dtype)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels of three rows, two of them padded on the right, less than a sliding window is wide.

    A query on padding that sees no token at all makes transformers' own attention return NaN for its whole row.
    """
    ids = torch.randint(2, VOCAB_SIZE, (3, 10), generator=torch.Generator().manual_seed(11))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    mask[2, 7:] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :3] = -100
    return ids, mask, labels


def installed(family: str) -> PreTrainedModel:
    model = family_model(family).requires_grad_(False)
    install(model)
    return model


def ours(model: PreTrainedModel, kv: Tensor, rows: list[int], slots: list[int]) -> tuple[Tensor, Tensor]:
    """Logits of the rows, and the gradient of the mean loss `[S, L, 2, H_kv, P, D]`."""
    ids, mask, labels = (tensor[rows] for tensor in batch())
    bank = PrefixBank(kv.clone(), trainable=True)
    with attending(model, bank, slots):
        positions = position_ids_for(mask, bank, slots)
        out = model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
        losses = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        (losses / (batch()[2][:, 1:] != -100).sum()).backward()
    assert bank.kv.grad is not None
    return out.logits.detach(), bank.kv.grad


def pefts(family: str, kv: Tensor) -> tuple[Tensor, Tensor]:
    """The same through PEFT, with its gradient brought to our shape."""
    _, num_layers, _, num_kv_heads, _, head_dim = kv.shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=NUM_VIRTUAL_TOKENS,
        token_dim=num_kv_heads * head_dim,
        num_attention_heads=num_kv_heads,
        num_layers=num_layers,
    )
    wrapped = get_peft_model(stock(family), config).eval()
    encoder = wrapped.prompt_encoder["default"].to(kv.dtype)
    encoder.embedding.weight.data.copy_(kv[0].permute(3, 0, 1, 2, 4).reshape(NUM_VIRTUAL_TOKENS, -1))
    ids, mask, labels = batch()
    out = wrapped(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    shape = (NUM_VIRTUAL_TOKENS, num_layers, 2, num_kv_heads, head_dim)
    return out.logits.detach(), encoder.embedding.weight.grad.view(shape).permute(1, 2, 3, 0, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_equal_pefts_checkpointed_or_not(family: str) -> None:
    model = installed(family)
    kv = real_kv(model, 5)
    logits, gradient = ours(model, kv, [0, 1, 2], [0, 0, 0])
    their_logits, their_gradient = pefts(family, kv)
    real = batch()[1].bool()
    torch.testing.assert_close(logits[real], their_logits[real], atol=tolerance(family), rtol=0)
    # transformers takes the loss in fp32, whatever the model computes in.
    torch.testing.assert_close(gradient[0], their_gradient, atol=max(tolerance(family), 1e-7), rtol=1e-5)
    assert their_gradient.abs().max() > 1e-4, "the gradient must be large enough for the comparison to mean anything"
    with checkpointed_layers(model):
        again, checkpointed = ours(model, kv, [0, 1, 2], [0, 0, 0])
    torch.testing.assert_close(again, logits, atol=tolerance(family), rtol=0)
    torch.testing.assert_close(checkpointed, gradient, atol=tolerance(family), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_with_different_prefixes_get_the_logits_and_gradients_of_lone_rows(family: str) -> None:
    model = installed(family)
    kv = torch.cat([real_kv(model, seed) for seed in (5, 6)])
    slots = [1, 0, 1]
    logits, gradient = ours(model, kv, [0, 1, 2], slots)
    alone = [ours(model, kv, [row], [slots[row]]) for row in range(3)]
    mask = batch()[1].bool()
    for row, (lone, _) in enumerate(alone):
        torch.testing.assert_close(logits[row][mask[row]], lone[0][mask[row]], atol=tolerance(family), rtol=0)
    summed = torch.stack([lone for _, lone in alone]).sum(0)
    torch.testing.assert_close(gradient, summed, atol=tolerance(family), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_prefix_loads_in_peft_and_here_with_equal_logits(family: str, tmp_path: Path) -> None:
    model = installed(family)
    kv = real_kv(model, 5)
    array = PrefixArray.of("prefix-tuning", kv[0].float().numpy())
    write_peft_folder(tmp_path, array, measured(model), base_model="tiny")
    reloaded = torch.from_numpy(read_peft_folder(tmp_path, measured(model)).values).unsqueeze(0).to(model.dtype)
    torch.testing.assert_close(reloaded, kv, atol=0, rtol=0)
    logits, _ = ours(model, reloaded, [0, 1, 2], [0, 0, 0])
    wrapped = PeftModel.from_pretrained(stock(family), tmp_path).eval()
    ids, mask, _ = batch()
    with torch.no_grad():
        theirs = wrapped(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[mask.bool()], theirs[mask.bool()], atol=tolerance(family), rtol=0)
