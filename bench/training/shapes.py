"""Base models to train in front of: the starter, and random models of known shapes."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

STARTER = Path(__file__).parents[2] / "worker" / "starter"


@dataclass(frozen=True)
class Shape:
    """A base model by its measurements.

    Attributes:
        title: What it is called in the table.
        num_layers: Layers; fewer than the original's only where the option says so.
        steps_factor: How many times the usual number of steps are timed, so that a small model fills a second.
    """

    title: str
    num_layers: int
    steps_factor: int = 1

    def with_layers(self, num_layers: int | None) -> "Shape":
        """The same shape with another number of layers; the starter keeps its own."""
        return self if num_layers is None or self.title == "starter" else replace(self, num_layers=num_layers)


SHAPES = {
    "starter": Shape("starter", 5, steps_factor=8),
    "135m": Shape("SmolLM2-135M shape", 30),
    "qwen": Shape("Qwen2.5-0.5B shape", 24),
}


def config_of(shape: Shape) -> PretrainedConfig:
    """The model's configuration as transformers knows it."""
    if shape.title == "starter":
        return AutoConfig.from_pretrained(STARTER)
    if shape.title.startswith("SmolLM2"):
        return LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )


def build_model(shape: Shape, dtype: torch.dtype) -> PreTrainedModel:
    """The starter from its folder, or a model with random weights."""
    if shape.title == "starter":
        return AutoModelForCausalLM.from_pretrained(STARTER, dtype=dtype, local_files_only=True)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    # Straight in its own number format: a copy in fp32 first would count as peak memory.
    torch.set_default_dtype(dtype)
    try:
        return AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
    finally:
        torch.set_default_dtype(before)
