"""Random models and tokenizers small enough to be built inside a test."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 400
CONTEXT_LENGTH = 256
SLIDING_WINDOW = 6
FAMILIES = ("llama", "qwen3", "gpt2", "gemma3_text")

END_TOKEN = "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = (
    "The waiter brought a bowl of soup and a slice of bread to the table by the window.",
    "name: Blue Spice, food: Italian, area: riverside, price: cheap",
    "Blue Spice serves cheap Italian food near the river.",
    "Is this review positive or negative? The film is a delight from start to end.",
    "User: how do I reset my password? Assistant: open the settings and choose reset.",
)

GROUPED = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": True,
}


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **GROUPED))


def _qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, **GROUPED))


def _gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=CONTEXT_LENGTH,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def _gemma3() -> PreTrainedModel:
    settings: dict[str, Any] = {**GROUPED, "query_pre_attn_scalar": 8, "sliding_window": SLIDING_WINDOW}
    layer_types = ["sliding_attention", "sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(num_hidden_layers=3, layer_types=layer_types, **settings))


BUILDERS = {"llama": _llama, "qwen3": _qwen3, "gpt2": _gpt2, "gemma3_text": _gemma3}


def tiny_model(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A random model of 2 or 3 layers, fp32, in eval mode; the same for the same seed.

    Args:
        family: One of `FAMILIES`; `gemma3_text` has a sliding window of `SLIDING_WINDOW` in two of three layers.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[family]()
        # The usual initialisation gives attention so flat that a wrong mask would hardly show.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "wpe" not in name:
                torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def tiny_tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences; any text round-trips.

    Args:
        chat: Whether it has a chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_TOKEN, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_TOKEN, eos_token=TURN_END if chat else END_TOKEN
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def tiny_base_folder(folder: Path, family: str = "llama", chat: bool = False) -> Path:
    """Saves a random model and its tokenizer as a folder that `from_pretrained` loads.

    Args:
        folder: Where to save; created where it is not there.
        family: One of `FAMILIES`.
        chat: Whether the tokenizer has a chat template.

    Returns:
        The folder.
    """
    model = tiny_model(family)
    tokenizer = tiny_tokenizer(chat)
    assert len(tokenizer) <= VOCAB_SIZE, f"tokenizer has {len(tokenizer)} tokens, expected at most {VOCAB_SIZE}"
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
