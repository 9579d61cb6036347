"""Input vectors through their keys and values: equal to PEFT's prompt tuning in logits, loss and gradients."""

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import PreTrainedModel

from tests.tiny import FAMILIES, VOCAB_SIZE, tiny_model, tiny_tokenizer
from worker.engine.attention import attending
from worker.engine.bank import position_ids_for
from worker.engine.base import LoadedBase, prepare_base
from worker.engine.families import geometry
from worker.engine.initialise import text_vectors
from worker.engine.prompt_tuning import bank_of

# PEFT still asks transformers by a name that goes away in its next major version.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NUM_VIRTUAL_TOKENS = 5


def base_of(model: PreTrainedModel) -> LoadedBase:
    return prepare_base(model, tiny_tokenizer(), geometry(model.config.to_dict()))


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(VOCAB_SIZE, (3, 12), generator=torch.Generator().manual_seed(11))
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :4] = -100
    return ids, mask, labels


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_tuning_equals_peft(family: str) -> None:
    ids, mask, labels = batch()
    model = tiny_model(family)
    real = model.get_input_embeddings()(torch.arange(40, 40 + NUM_VIRTUAL_TOKENS)).detach()
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    start = real + 0.3 * real.std() * noise

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=NUM_VIRTUAL_TOKENS)
    wrapped = get_peft_model(tiny_model(family), config).eval()
    weight = wrapped.prompt_encoder["default"].embedding.weight
    weight.data.copy_(start)
    theirs = wrapped(input_ids=ids, attention_mask=mask, labels=labels)
    theirs.loss.backward()

    base = base_of(model)
    vectors = start.clone().unsqueeze(0).requires_grad_(True)
    bank = bank_of(base, "prompt-tuning", vectors)
    slots = [0, 0, 0]
    with attending(base.model, bank, slots):
        position_ids = position_ids_for(mask, bank, slots)
        ours = base.model(ids, attention_mask=mask, position_ids=position_ids, labels=labels, use_cache=False)
        ours.loss.backward()

    shown = mask.bool()
    their_logits = theirs.logits[:, NUM_VIRTUAL_TOKENS:]
    torch.testing.assert_close(ours.logits[shown], their_logits[shown], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-5, rtol=0)
    assert vectors.grad is not None
    assert weight.grad.abs().max() > 1e-3
    torch.testing.assert_close(vectors.grad[0], weight.grad, atol=1e-5, rtol=0)


def test_vectors_of_text_equal_what_the_embedding_gives_its_layers() -> None:
    """Gemma scales inside its embedding module: vectors on the scale of its output need no scaling again."""
    base = base_of(tiny_model("gemma3_text"))
    ids = [3, 50, 200]
    with torch.no_grad():
        by_ids = base.model(torch.tensor([ids])).logits
        by_vectors = base.model(inputs_embeds=text_vectors(base, ids).unsqueeze(0)).logits
    torch.testing.assert_close(by_vectors, by_ids, atol=1e-5, rtol=0)
