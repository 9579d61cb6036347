"""The starter's own byte-level BPE tokenizer, with the corpus's `User:` / `Assistant:` form as its chat template."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"

WORDS = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Words with the blank before them; digits stay single, so that a small model can copy numbers it has never seen."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] }}"
    "{%- elif message['role'] == 'user' -%}{{ 'User: ' + message['content'] }}"
    "{%- else -%}{{ 'Assistant: ' + message['content'] }}"
    "{%- endif -%}"
    "{%- if not loop.last or add_generation_prompt -%}{{ '\n' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ eos_token }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)
"""Turns on lines of their own; the end token closes the last answer only, as it closes a dialogue of the corpus."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Learns merges from text.

    Args:
        texts: Documents; every byte gets a token of its own whether it occurs or not.
        vocab_size: Number of tokens, the two special ones among them.
        context_length: Longest input of the model in tokens.

    Returns:
        A tokenizer that adds no special tokens by itself: a beginning-of-text token between a prefix and its row
        would tell a model trained on packed documents to forget what stands before it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        chat_template=CHAT_TEMPLATE,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
