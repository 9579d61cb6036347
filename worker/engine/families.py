"""Which families of models can take a prefix, and their measurements, read from config.json alone; knows no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.engine.config_numbers import feed_forward, measurement, optional
from worker.engine.errors import UnsupportedModelError

SUPPORTED_FAMILIES: dict[str, str] = {
    "llama": "Llama and SmolLM",
    "mistral": "Mistral",
    "qwen2": "Qwen 2",
    "qwen3": "Qwen 3",
    "qwen3_moe": "Qwen 3 MoE",
    "smollm3": "SmolLM 3",
    "phi": "Phi",
    "phi3": "Phi 3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 (text)",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX and Pythia",
    "opt": "OPT",
    "olmo2": "OLMo 2",
    "granite": "Granite",
    "cohere2": "Command R7B",
    "starcoder2": "StarCoder 2",
    "gpt_oss": "gpt-oss",
    "gpt_bigcode": "StarCoder",
}
"""`model_type` to the name people know; each gives the same logits with a prefix as PEFT does."""

ENCODER_DECODERS: dict[str, str] = {
    "t5": "T5 and Flan-T5",
    "mt5": "mT5",
    "bart": "BART",
    "pegasus": "Pegasus",
}
"""The same for models that read with an encoder and write with a decoder; PEFT holds no prefix of theirs."""

OTHER_ATTENTION = {"bloom", "mpt", "falcon", "gptj", "gpt_neo", "codegen", "deberta_v2"}
"""Families whose attention does not go through transformers' interface, so that no prefix can be put in front."""

ENCODERS = {"bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "albert"}

LANGUAGE_CODES = {"mbart", "m2m_100", "plbart", "nllb-moe"}
"""Encoder-decoders that expect the code of a language with every text."""

TRAINED_LENGTH = 512
"""Tokens that T5 and its kin were trained with; their config.json often names no limit, because they have none."""

LEARNED_POSITIONS = {"gpt2", "opt", "gpt_bigcode"}
"""Families with a table of position vectors: a prefix of P tokens takes P of its rows."""

CONFIG_NAMES: dict[str, tuple[str, ...]] = {
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
    "hidden_size": ("hidden_size", "n_embd"),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions"),
}
"""Our name of a measurement to its names in config.json."""

SEQ2SEQ_NAMES: dict[str, tuple[str, ...]] = {
    "num_encoder_layers": ("encoder_layers", "num_layers"),
    "num_layers": ("decoder_layers", "num_decoder_layers", "num_layers"),
    "num_heads": ("decoder_attention_heads", "num_heads"),
    "hidden_size": ("d_model",),
    "vocab_size": ("vocab_size",),
}
"""The same for encoder-decoders."""

CLASS_DEFAULTS: dict[str, dict[str, int]] = {
    "mistral": {"num_key_value_heads": 8},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"num_key_value_heads": 4},
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4},
    "gemma3_text": {"head_dim": 256, "num_key_value_heads": 4},
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8},
    "starcoder2": {"num_key_value_heads": 2},
}
"""What transformers assumes where a config.json leaves a number out; everything else follows from the heads."""

MAX_START_TOKENS = 2
"""Tokens in front of an encoder-decoder's answer."""


COLUMNS_PER_TOKEN = {"prefix-tuning": 1, "prompt-tuning": 1, "prefix-tuning-plus": 2}
"""Keys, values or input vectors that a prefix holds for each virtual token; with plus one more outside the softmax."""


@dataclass(frozen=True)
class Geometry:
    """The measurements of a base model that a prefix depends on.

    Attributes:
        num_layers: Decoder layers.
        num_kv_heads: Key/value heads H_kv of a layer.
        head_dim: Width D of a head.
        hidden_size: Width of the residual stream, and of an input vector.
        vocab_size: Entries of the vocabulary.
        context_length: Positions that the model takes, prefix included; with an encoder of prompt and answer each.
        learned_positions: Whether positions are vectors in a table, so that the context is a hard limit.
        num_heads: Query heads of a layer.
        intermediate_size: Width of the feed-forward block (of all active experts together).
        num_encoder_layers: Layers of an encoder-decoder's encoder; 0 for a model that only decodes.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    context_length: int
    learned_positions: bool = False
    num_heads: int = 1
    intermediate_size: int = 0
    num_encoder_layers: int = 0

    @property
    def has_encoder(self) -> bool:
        """Whether the prompt is read by an encoder and the answer written by a decoder."""
        return self.num_encoder_layers > 0

    @property
    def num_attentions(self) -> int:
        """Attentions that a prefix stands in front of, L: one a layer, two a layer in a decoder with an encoder."""
        return self.num_encoder_layers + self.num_layers * (2 if self.has_encoder else 1)

    def fits(self, num_prompt_tokens: int, num_target_tokens: int, num_virtual_tokens: int) -> bool:
        """Whether a row fits into the context; in an encoder-decoder prompt and answer have one each, and no prefix."""
        if self.has_encoder:
            return max(num_prompt_tokens, num_target_tokens + MAX_START_TOKENS - 1) <= self.context_length
        return num_prompt_tokens + num_target_tokens + num_virtual_tokens <= self.context_length

    def prefix_parameters(self, method: str, num_virtual_tokens: int) -> int:
        """How many numbers a prefix of that length holds.

        Args:
            method: `prefix-tuning` (keys and values in every layer), `prefix-tuning-plus` (as many again outside the
                softmax) or `prompt-tuning` (input vectors).
            num_virtual_tokens: Its length P in tokens.
        """
        if method == "prompt-tuning":
            return num_virtual_tokens * self.hidden_size
        return (
            COLUMNS_PER_TOKEN[method] * num_virtual_tokens * self.num_attentions * 2 * self.num_kv_heads * self.head_dim
        )


def check_family(config: Mapping[str, Any]) -> None:
    """Refuses a model that cannot take a prefix, or that would need its own code.

    Args:
        config: The content of config.json.

    Raises:
        UnsupportedModelError: With the reason and the families that work.
    """
    family = str(config.get("model_type") or "")
    if config.get("auto_map"):
        raise UnsupportedModelError(
            "This model brings its own program code (auto_map in config.json), which is never run here. "
            "Choose a model of a family that transformers knows by itself."
        )
    if family not in SUPPORTED_FAMILIES and family not in ENCODER_DECODERS:
        raise UnsupportedModelError(_refusal(family, _reason(family)))
    if config.get("quantization_config"):
        raise UnsupportedModelError(
            "The weights of this model are stored quantised, which is not supported. "
            "Choose the same model in float16, bfloat16 or float32."
        )
    _check_head(config)
    heads = [config.get(f"{stack}_attention_heads") for stack in ("encoder", "decoder")]
    if heads[0] != heads[1]:
        raise UnsupportedModelError(
            f"The encoder of this model has {heads[0]} attention heads and its decoder {heads[1]}; expected as many. "
            "Choose another model of the same family."
        )


def check_method(measured: Geometry, method: str) -> None:
    """Refuses a method that a base cannot be trained with.

    Args:
        measured: Measurements of the base.
        method: One of `recipe.Method`.

    Raises:
        UnsupportedModelError: Of an encoder-decoder anything but prefix tuning: its encoder reads in both directions,
            so no keys and values can be computed beforehand from vectors at its input; and what stands outside the
            softmax was never measured in its three attentions.
    """
    if measured.has_encoder and method != "prefix-tuning":
        words = "Prompt tuning" if method == "prompt-tuning" else "Prefix tuning+"
        raise UnsupportedModelError(
            f"{words} works with models that only decode, and this base has an encoder. Choose prefix tuning."
        )


def geometry(config: Mapping[str, Any]) -> Geometry:
    """Reads the measurements of a model.

    Args:
        config: The content of config.json, of a family that `check_family` accepts.

    Raises:
        UnsupportedModelError: A measurement is missing or impossible.
    """
    family = str(config.get("model_type") or "")
    if family in ENCODER_DECODERS:
        return _seq2seq_geometry(config)
    found = {name: measurement(config, name, keys) for name, keys in CONFIG_NAMES.items()}
    defaults = CLASS_DEFAULTS.get(family, {})
    num_kv_heads = optional(config, "num_key_value_heads", defaults.get("num_key_value_heads", found["num_heads"]))
    if family == "gpt_bigcode":
        num_kv_heads = 1 if config.get("multi_query", True) else found["num_heads"]
    even_share = max(found["hidden_size"] // found["num_heads"], 1)
    return Geometry(
        num_layers=found["num_layers"],
        num_kv_heads=num_kv_heads,
        head_dim=optional(config, "head_dim", defaults.get("head_dim", even_share)),
        hidden_size=found["hidden_size"],
        vocab_size=found["vocab_size"],
        context_length=found["context_length"],
        learned_positions=family in LEARNED_POSITIONS,
        num_heads=found["num_heads"],
        intermediate_size=feed_forward(config, found["hidden_size"]),
    )


def _seq2seq_geometry(config: Mapping[str, Any]) -> Geometry:
    found = {name: measurement(config, name, keys) for name, keys in SEQ2SEQ_NAMES.items()}
    has_table = "max_position_embeddings" in config
    context_length = optional(config, "n_positions", TRAINED_LENGTH)
    return Geometry(
        num_layers=found["num_layers"],
        num_kv_heads=found["num_heads"],
        head_dim=optional(config, "d_kv", max(found["hidden_size"] // found["num_heads"], 1)),
        hidden_size=found["hidden_size"],
        vocab_size=found["vocab_size"],
        context_length=optional(config, "max_position_embeddings", context_length),
        learned_positions=has_table,
        num_heads=found["num_heads"],
        intermediate_size=feed_forward(config, found["hidden_size"]),
        num_encoder_layers=found["num_encoder_layers"],
    )


def _refusal(family: str, reason: str) -> str:
    named = f"A model of type {family!r}" if family else "A model without a model_type in its config.json"
    known = ", ".join([*SUPPORTED_FAMILIES.values(), *ENCODER_DECODERS.values()])
    return f"{named} {reason}. These families work: {known}."


def _reason(family: str) -> str:
    if family in OTHER_ATTENTION:
        return "computes its attention in a way that leaves no room for a prefix"
    if family in ENCODERS:
        return "reads text but does not write any"
    if family in LANGUAGE_CODES:
        return "expects the code of a language with every text, which a table does not say"
    return "is not among those that were verified with a prefix"


def _check_head(config: Mapping[str, Any]) -> None:
    """A model saved without its language-model head would be given a random one, in silence."""
    classes = config.get("architectures")
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    heads: tuple[str, ...] = ("ForCausalLM", "LMHeadModel")
    if config.get("model_type") in ENCODER_DECODERS:
        # BART is published without its head's name: its head is its table of input vectors.
        heads = ("ForConditionalGeneration", "LMHeadModel", "BartModel")
    if names and not any(name.endswith(heads) for name in names):
        raise UnsupportedModelError(
            f"This model was saved as {names[0]}, which does not write text; expected one saved for writing "
            "text. Choose the original model that it was made from."
        )
    embedding = config.get("word_embed_proj_dim")
    if embedding is not None and embedding != config.get("hidden_size"):
        raise UnsupportedModelError(
            f"This model's input vectors are {embedding} wide and its layers {config.get('hidden_size')}; expected the "
            "same width. Choose another size of the same family."
        )
