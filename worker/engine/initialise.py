"""The first state of a prefix: what the base itself computes for a text, or random numbers of the same scale."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.attention import attending, recording
from worker.engine.base import LoadedBase
from worker.engine.errors import InvalidRecipeError
from worker.engine.families import check_method
from worker.engine.recipe import Recipe

NUM_SAMPLED_TOKENS = 64
"""Tokens of which the scale of real keys and values is taken where a prefix starts from random numbers."""


def initial_numbers(base: LoadedBase, recipe: Recipe, init_ids: Sequence[int]) -> Tensor:
    """The trained tensor before its first step.

    Args:
        base: The frozen base.
        recipe: Its method, `init`, `num_virtual_tokens` and seed are read.
        init_ids: The instruction and what follows it (rendered examples), BOS first where the tokenizer has one;
            may be longer or shorter than the prefix, and is not read for `init: random`.

    Returns:
        fp32; `[1, L, 2, H_kv, P, D]` for prefix tuning, `[1, P, hidden]` for prompt tuning.

    Source: Li and Liang 2021, arXiv 2101.00190, section 7.4: real activations beat random numbers, most with few rows.
    """
    assert recipe.num_virtual_tokens is not None
    check_method(base.geometry, recipe.method)
    length = recipe.num_virtual_tokens
    if recipe.init == "random":
        generator = torch.Generator().manual_seed(recipe.seed)
        sampled = torch.randint(base.geometry.vocab_size, (NUM_SAMPLED_TOKENS,), generator=generator).tolist()
        return _noise_like(_activations(base, recipe, sampled), length, generator)
    return _activations(base, recipe, stretch(init_ids, length))


def stretch(ids: Sequence[int], length: int) -> list[int]:
    """Cuts a text to a number of tokens, or repeats it from its start until it has them.

    Repetition keeps every position a real activation of fluent text; vectors of random tokens would each pull the
    base somewhere else before training has begun.

    Raises:
        InvalidRecipeError: There is no text.
    """
    if not ids:
        raise InvalidRecipeError(
            "There is no text to start the prefix from. Write an instruction, or choose the random start."
        )
    return [ids[index % len(ids)] for index in range(length)]


@torch.no_grad()
def text_kv(base: LoadedBase, ids: Sequence[int]) -> Tensor:
    """Keys and values of a text at positions 0 and up, as fp32 `[L, 2, H_kv, T, D]`.

    In an encoder-decoder those of the encoder that reads the text, of the decoder that writes it as its answer, and of
    the decoder that looks at what the encoder read.
    """
    input_ids = torch.tensor([list(ids)], device=base.device)
    if base.geometry.has_encoder:
        written = [*base.decoder_start_ids, *ids][: len(ids)]
        inputs = {"decoder_input_ids": torch.tensor([written], device=base.device)}
    else:
        inputs = {"position_ids": torch.arange(len(ids), device=base.device).unsqueeze(0)}
    with attending(base.model, None, ()), recording(base.model) as recorded:
        base.model.base_model(input_ids=input_ids, **inputs, use_cache=False)
    return recorded.stacked()[0].float()


@torch.no_grad()
def text_vectors(base: LoadedBase, ids: Sequence[int]) -> Tensor:
    """Input vectors of a text as its first layer gets them, fp32 `[T, hidden]`."""
    embeddings = base.model.get_input_embeddings()
    vectors: Tensor = embeddings(torch.tensor(list(ids), device=base.device))
    return vectors.float()


def _activations(base: LoadedBase, recipe: Recipe, ids: Sequence[int]) -> Tensor:
    compute = text_vectors if recipe.method == "prompt-tuning" else text_kv
    return compute(base, ids).unsqueeze(0)


def _noise_like(real: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Normal numbers with the mean and spread that real ones have over their tokens (second to last dimension)."""
    shape = (*real.shape[:-2], length, real.shape[-1])
    noise = torch.randn(shape, generator=generator).to(real.device)
    return real.mean(dim=-2, keepdim=True) + noise * real.std(dim=-2, keepdim=True)
