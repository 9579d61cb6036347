"""Gradient checkpointing of a frozen base: activations are computed again in the backward pass, dropout stays off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def checkpointed_layers(model: PreTrainedModel) -> Iterator[None]:
    """Keeps only each layer's input for the backward pass, of every forward within.

    transformers checkpoints a layer only in training mode. That flag is set on the layers alone, not on what they
    hold, and taken back while a layer computes (OPT's and BART's layers drop out by their own flag), so that the base
    computes what it computes in use. The model's own switch is left
    alone: it would also ask for the gradient of the embeddings, which nobody needs here. Call the model with
    `use_cache=False`: a cache would be filled again by the second computation.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(_checkpoint_in_eval, layer)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


def _checkpoint_in_eval(layer: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    def compute(*inputs: Any) -> Any:
        is_training, layer.training = layer.training, False
        try:
            return forward(*inputs)
        finally:
            layer.training = is_training

    return checkpoint(compute, *inputs, use_reentrant=False)
