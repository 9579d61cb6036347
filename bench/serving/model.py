"""What both sides answer with: a random base of a known shape, a tokenizer of words, and random prefixes."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench.training.rows import make_rows
from bench.training.shapes import SHAPES, build_model
from worker.engine.families import Geometry

NUM_VIRTUAL_TOKENS = 64
"""What our automatic recipe takes for short instructions; the same for both sides."""

PREFIX_SCALE = 0.5


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        prompt_ids: What is asked.
        prefix: Number of the prefix that answers; None is the base alone.
    """

    prompt_ids: tuple[int, ...]
    prefix: int | None = None

    @property
    def text(self) -> str:
        """The prompt in words of `word_tokenizer`."""
        return " ".join(f"w{token_id}" for token_id in self.prompt_ids)


def make_model(shape: str, layers: int, dtype: torch.dtype) -> PreTrainedModel:
    """A random model that never ends an answer by itself, so that all answers have one length."""
    model = build_model(SHAPES[shape].with_layers(layers or None), dtype).eval().requires_grad_(False)
    model.generation_config.eos_token_id = None
    return model


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """One word for each id, and no special tokens."""
    words = models.WordLevel({f"w{token_id}": token_id for token_id in range(vocab_size)}, unk_token="w0")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0")


def make_prefixes(geometry: Geometry, count: int) -> torch.Tensor:
    """`[count, L, 2, H_kv, P, D]` in fp32."""
    shape = (count, geometry.num_layers, 2, geometry.num_kv_heads, NUM_VIRTUAL_TOKENS, geometry.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * PREFIX_SCALE


def make_asks(vocab_size: int, count: int, num_prefixes: int, seed: int) -> list[Ask]:
    """Requests with the prompt lengths of e2e_nlg, going round the prefixes.

    Args:
        vocab_size: Ids are drawn below it.
        count: How many.
        num_prefixes: Prefixes that they are spread over; 0 asks the base alone.
        seed: Seed of lengths and ids.
    """
    rows = make_rows("e2e", vocab_size, seed, count)
    return [Ask(row.prompt_ids, index % num_prefixes if num_prefixes else None) for index, row in enumerate(rows)]
