"""Gradient checkpointing of a frozen base: activations are computed again in the backward pass, dropout stays off."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed_layers(model: PreTrainedModel) -> Iterator[None]:
    """Keeps only each layer's input for the backward pass, of every forward within.

    transformers checkpoints a layer only in training mode. That flag is set on the layers alone, not on what they
    hold, so that dropout stays off and the base computes what it computes in use. The model's own switch is left
    alone: it would also ask for the gradient of the embeddings, which nobody needs here. Call the model with
    `use_cache=False`: a cache would be filled again by the second computation.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
