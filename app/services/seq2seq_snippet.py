"""The lines of Python that load a prefix of an encoder-decoder with plain transformers, since PEFT holds none."""

LINES = """\
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

base = {base!r}{base_note}
tokenizer = AutoTokenizer.from_pretrained(base{revision})
model = AutoModelForSeq2SeqLM.from_pretrained(base{revision}, dtype={dtype!r}).eval()

# Keys and values of each attention: the encoder's, the decoder's to itself, the decoder's to the encoder.
stacks = [model.get_encoder(), model.get_decoder()]
encoder, decoder = ([m for m in s.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")] for s in stacks)
places = [*encoder, *(m for m in decoder if m.is_causal), *(m for m in decoder if not m.is_causal)]
table = load_file({tensors!r})[{tensor!r}]
prefix = table.view(len(table), len(places), 2, {num_heads}, -1).permute(1, 2, 3, 0, 4).to(model.dtype)
place_of = {{module: place for place, module in enumerate(places)}}
bias_of = {{}}  # T5: the attention of a stack's first layer gives the bias by distance for all its layers
for stack in (encoder, [m for m in decoder if m.is_causal]):
    for module in stack:
        if getattr(module, "has_relative_attention_bias", False):
            bias_of |= {{each: module for each in stack[stack.index(module) :]}}


def attend(module, query, key, value, attention_mask, position_bias=None, **kwargs):
    num_queries, num_keys, length = query.shape[2], key.shape[2], len(table)
    rows = [part.expand(len(query), -1, -1, -1) for part in prefix[place_of[module]]]
    key, value = torch.cat([rows[0], key], 2), torch.cat([rows[1], value], 2)
    if attention_mask is not None:
        attention_mask = torch.nn.functional.pad(attention_mask, (length, 0))
    if position_bias is not None:
        columns = torch.zeros_like(position_bias[..., :1]).expand(-1, -1, -1, length)
        if module in bias_of:
            seen = length + num_keys - num_queries
            columns = bias_of[module].compute_bias(num_queries, length, past_seen_tokens=seen).to(query.dtype)
        position_bias = torch.cat([columns, position_bias], -1)
    return sdpa_attention_forward(module, query, key, value, attention_mask, position_bias=position_bias, **kwargs)


AttentionInterface.register("with_prefix", attend)
AttentionMaskInterface.register("with_prefix", eager_mask)
model.set_attn_implementation("with_prefix")

row = {row}
prompt = {prompt}
inputs = tokenizer(prompt.rstrip(" "), return_tensors="pt")
starts = [model.generation_config.decoder_start_token_id, model.config.decoder_start_token_id, tokenizer.pad_token_id]
special = tokenizer("").input_ids
start = [next(each for each in starts if each is not None), *special[: special.index(tokenizer.eos_token_id)]]
plainly = dict(do_sample=False, num_beams=1, min_length=0, no_repeat_ngram_size=0, forced_eos_token_id=None)
output = model.generate(
    **inputs, decoder_input_ids=torch.tensor([start]), max_length=None, max_new_tokens={max_new_tokens}, **plainly
)
print(tokenizer.decode(output[0, len(start) :], skip_special_tokens=True).strip())
"""
"""Filled in by `snippet.snippet_of`."""
