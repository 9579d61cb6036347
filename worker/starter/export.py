"""The trained decoder as a folder that transformers loads."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from worker.starter.model import Decoder


def to_llama(decoder: Decoder, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The same weights in transformers' own class."""
    config = decoder.shape.to_llama_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = LlamaForCausalLM(config)
    model.model.load_state_dict(decoder.state_dict())
    model.tie_weights()
    return model.eval()


def export(decoder: Decoder, tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict[str, Any]) -> None:
    """Writes bf16 safetensors, configuration and tokenizer, and `training.json` with the figures of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    to_llama(decoder, tokenizer).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
