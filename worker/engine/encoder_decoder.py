"""Models that read with an encoder and write with a decoder: where their prefixes stand, and how their answers begin.

A prefix stands in front of the keys and values of every attention: of the encoder, of the decoder to itself, and of
the decoder to the encoder. Source: Li and Liang 2021, arXiv 2101.00190, section 4.2 and their BART experiments.
"""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from worker.engine.relative_bias import bias_sources


def number_attentions(model: PreTrainedModel) -> None:
    """Gives each attention of an encoder-decoder its place in the bank, as `prefix_index`.

    First the encoder's, then the decoder's own, then those from the decoder to the encoder, each by layer.
    """
    encoder = _attentions(model.get_encoder())
    decoder = _attentions(model.get_decoder())
    to_itself = [module for module in decoder if module.is_causal]
    to_encoder = [module for module in decoder if not module.is_causal]
    for index, module in enumerate([*encoder, *to_itself, *to_encoder]):
        # Around nn.Module's own __setattr__, which keeps parameters and submodules only under typing.
        object.__setattr__(module, "prefix_index", index)
    for modules in (encoder, to_itself):
        for module, source in bias_sources(modules):
            object.__setattr__(module, "prefix_bias", source)


def decoder_start_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What stands in front of every answer: the decoder's start token, and what the tokenizer puts before a text.

    Nothing for a model that only decodes: there the prompt stands in front. BART's answers begin with both its end
    and its start token, T5's with the padding token alone (also
    where an old config.json does not say so).
    """
    if not model.config.is_encoder_decoder:
        return ()
    named = (model.generation_config.decoder_start_token_id, getattr(model.config, "decoder_start_token_id", None))
    start = next((token for token in (*named, model.config.pad_token_id) if token is not None), 0)
    special = list(tokenizer("").input_ids)
    before = special[: special.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in special else []
    return (int(start), *before)


def _attentions(stack: nn.Module) -> Sequence[nn.Module]:
    return [module for module in stack.modules() if hasattr(module, "layer_idx") and hasattr(module, "is_causal")]
