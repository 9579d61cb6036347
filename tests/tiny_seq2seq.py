"""Random encoder-decoders and their tokenizers, small enough to be built inside a test."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny import CORPUS, VOCAB_SIZE

SEQ2SEQ_CONTEXT = 128
SEQ2SEQ_FAMILIES = ("t5", "t5-gated", "mt5", "bart", "pegasus")

PAD, END, START = "<pad>", "</s>", "<s>"
PAD_ID, END_ID, START_ID = 0, 1, 2

T5_SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "n_positions": SEQ2SEQ_CONTEXT,
    "decoder_start_token_id": PAD_ID,
}
BART_SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": SEQ2SEQ_CONTEXT,
    "dropout": 0.3,
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", {**T5_SIZES, "dropout_rate": 0.3}),
    "t5-gated": ("t5", {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", T5_SIZES),
    "bart": ("bart", {**BART_SIZES, "decoder_start_token_id": END_ID}),
    "pegasus": ("pegasus", {**BART_SIZES, "decoder_start_token_id": PAD_ID}),
}
"""`model_type` and sizes; dropout that is not zero shows where it is not off."""


def tiny_seq2seq(family: str = "t5", seed: int = 0) -> PreTrainedModel:
    """A random model of 2 encoder and 3 decoder layers, fp32, in eval mode; the same for the same seed.

    Args:
        family: One of `SEQ2SEQ_FAMILIES`.
        seed: Seed of the weights.
    """
    model_type, sizes = SETTINGS[family]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=VOCAB_SIZE,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        bos_token_id=START_ID if family == "bart" else None,
        forced_eos_token_id=None,
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                torch.nn.init.normal_(parameter, std=1.0 if "relative" in name else 0.15)
    return model.eval()


def tiny_seq2seq_tokenizer(family: str = "t5") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens of its family: an end token, with BART a start token too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    template = f"{START} $A {END}" if family == "bart" else f"$A {END}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(END, END_ID), (START, START_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, bos_token=START if family == "bart" else None
    )


def tiny_seq2seq_folder(folder: Path, family: str = "t5") -> Path:
    """Saves a random model and its tokenizer as a folder that `from_pretrained` loads."""
    tiny_seq2seq(family).save_pretrained(folder)
    tiny_seq2seq_tokenizer(family).save_pretrained(folder)
    return folder
