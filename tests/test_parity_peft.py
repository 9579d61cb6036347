"""The same keys and values through PEFT and through our attention: equal logits, loss and gradients."""

from dataclasses import dataclass

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import PreTrainedModel

from tests.tiny import FAMILIES, VOCAB_SIZE, tiny_model
from worker.engine.attention import attending, install, recording
from worker.engine.bank import PrefixBank, position_ids_for
from worker.engine.checkpointing import checkpointed_layers

# PEFT still asks transformers by a name that goes away in its next major version.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NUM_VIRTUAL_TOKENS = 5
TOLERANCE = 1e-5


@dataclass
class Outcome:
    logits: torch.Tensor
    loss: torch.Tensor
    gradient: torch.Tensor


def text_kv(model: PreTrainedModel, seed: int = 5) -> torch.Tensor:
    """`[1, L, 2, H_kv, P, D]` that the model computed for random tokens."""
    ids = torch.randint(VOCAB_SIZE, (1, NUM_VIRTUAL_TOKENS), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), recording(model) as recorded:
        model(ids)
    return recorded.stacked()


def batch(is_padded: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and labels of three rows; the prompt (4 tokens) and the padding carry no label."""
    ids = torch.randint(VOCAB_SIZE, (3, 12), generator=torch.Generator().manual_seed(11))
    mask = torch.ones_like(ids)
    if is_padded:
        mask[0, 9:] = 0
        mask[2, 5:] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :4] = -100
    return ids, mask, labels


def peft_model(family: str, kv: torch.Tensor) -> PeftModel:
    model = tiny_model(family)
    _, num_layers, _, num_kv_heads, _, head_dim = kv.shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=NUM_VIRTUAL_TOKENS,
        token_dim=num_kv_heads * head_dim,
        num_attention_heads=num_kv_heads,
        num_layers=num_layers,
    )
    wrapped = get_peft_model(model, config).eval()
    flat = kv[0].permute(3, 0, 1, 2, 4).reshape(NUM_VIRTUAL_TOKENS, -1)
    wrapped.prompt_encoder["default"].embedding.weight.data.copy_(flat)
    return wrapped


def through_peft(family: str, kv: torch.Tensor, is_padded: bool) -> Outcome:
    ids, mask, labels = batch(is_padded)
    wrapped = peft_model(family, kv)
    out = wrapped(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    flat = wrapped.prompt_encoder["default"].embedding.weight.grad
    _, num_layers, _, num_kv_heads, _, head_dim = kv.shape
    gradient = flat.view(NUM_VIRTUAL_TOKENS, num_layers, 2, num_kv_heads, head_dim).permute(1, 2, 3, 0, 4)
    return Outcome(out.logits.detach(), out.loss.detach(), gradient)


def through_us(model: PreTrainedModel, kv: torch.Tensor, is_padded: bool, has_mask: bool = True) -> Outcome:
    ids, mask, labels = batch(is_padded)
    bank = PrefixBank(kv.clone(), trainable=True)
    slots = [0, 0, 0]
    positions = position_ids_for(mask if has_mask else torch.ones_like(mask), bank, slots)
    with attending(model, bank, slots):
        out = model(
            ids, attention_mask=mask if has_mask else None, position_ids=positions, labels=labels, use_cache=False
        )
        out.loss.backward()
    gradient = bank.kv.grad
    assert gradient is not None
    return Outcome(out.logits.detach(), out.loss.detach(), gradient[0])


def assert_equal_outcomes(ours: Outcome, theirs: Outcome, mask: torch.Tensor) -> None:
    real = mask.bool()
    torch.testing.assert_close(ours.logits[real], theirs.logits[real], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.gradient, theirs.gradient, atol=TOLERANCE, rtol=0)
    assert theirs.gradient.abs().max() > 1e-3, "the gradient must be large enough for the comparison to mean anything"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
def test_prefix_equals_peft(family: str, is_padded: bool) -> None:
    model = tiny_model(family)
    install(model)
    kv = text_kv(model)
    ours, theirs = through_us(model, kv, is_padded), through_peft(family, kv, is_padded)
    assert_equal_outcomes(ours, theirs, batch(is_padded)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_without_padding_mask_equals_peft_with_it(family: str) -> None:
    """The fast path of training: padding on the right is never seen by a real token anyway."""
    model = tiny_model(family)
    install(model)
    kv = text_kv(model)
    ours, theirs = through_us(model, kv, is_padded=True, has_mask=False), through_peft(family, kv, is_padded=True)
    assert_equal_outcomes(ours, theirs, batch(is_padded=True)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_with_gradient_checkpointing_equals_peft(family: str) -> None:
    model = tiny_model(family)
    install(model)
    kv = text_kv(model)
    with checkpointed_layers(model):
        ours = through_us(model, kv, is_padded=True)
    assert_equal_outcomes(ours, through_peft(family, kv, is_padded=True), batch(is_padded=True)[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_prefixes_trained_in_one_batch_get_the_gradients_of_separate_runs(family: str) -> None:
    model = tiny_model(family)
    install(model)
    kv = torch.cat([text_kv(model, seed) for seed in (5, 6)])
    ids, mask, labels = batch(is_padded=True)
    slots = [1, 0, 1]

    def gradient_of(rows: list[int]) -> torch.Tensor:
        bank = PrefixBank(kv.clone(), trainable=True)
        chosen = [slots[row] for row in rows]
        with attending(model, bank, chosen):
            out = model(ids[rows], attention_mask=mask[rows], position_ids=position_ids_for(mask[rows], bank, chosen))
            losses = torch.nn.functional.cross_entropy(
                out.logits[:, :-1].flatten(0, 1), labels[rows, 1:].flatten(), reduction="sum"
            )
            losses.backward()
        assert bank.kv.grad is not None
        return bank.kv.grad

    together, apart = gradient_of([0, 1, 2]), sum(gradient_of([row]) for row in range(3))
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=1e-5)
