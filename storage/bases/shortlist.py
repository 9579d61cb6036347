"""Good small models of the Hugging Face Hub, with what is known of them, so that they are listed without a network.

Figures are those of the repositories' config.json and safetensors files; a download replaces them by what it finds.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HubModel:
    """A model of the short list.

    Attributes:
        hub_id: Its repository.
        num_parameters: Stored numbers.
        size_bytes: Size of its weights.
        license: Its licence, as the hub names it.
        config: The measurements of its config.json.
        dtype: Number format of its weights.
        gated: Whether the hub asks for consent to a licence first.
        has_chat_template: Whether its tokenizer renders conversations.
    """

    hub_id: str
    num_parameters: int
    size_bytes: int
    license: str
    config: dict[str, Any] = field(repr=False)
    dtype: str = "BF16"
    gated: bool = False
    has_chat_template: bool = False

    @property
    def details(self) -> dict[str, Any]:
        """The facts as the database keeps them."""
        return {
            "num_parameters": self.num_parameters,
            "dtype": self.dtype,
            "size_bytes": self.size_bytes,
            "has_chat_template": self.has_chat_template,
            "license": self.license,
            "gated": self.gated,
        }


def _decoder(model_type: str, layers: int, hidden: int, heads: tuple[int, int, int], **rest: int) -> dict[str, Any]:
    query_heads, kv_heads, head_dim = heads
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": query_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        **rest,
    }


_SMOL_135M = _decoder(
    "llama", 30, 576, (9, 3, 64), intermediate_size=1536, vocab_size=49152, max_position_embeddings=8192
)
_SMOL_360M = _decoder(
    "llama", 32, 960, (15, 5, 64), intermediate_size=2560, vocab_size=49152, max_position_embeddings=8192
)
_QWEN_600M = _decoder(
    "qwen3", 28, 1024, (16, 8, 128), intermediate_size=3072, vocab_size=151936, max_position_embeddings=40960
)
_QWEN_1700M = _decoder(
    "qwen3", 28, 2048, (16, 8, 128), intermediate_size=6144, vocab_size=151936, max_position_embeddings=40960
)
_GEMMA_270M = _decoder(
    "gemma3_text", 18, 640, (4, 1, 256), intermediate_size=2048, vocab_size=262144, max_position_embeddings=32768
)
_LLAMA_1B = _decoder(
    "llama", 16, 2048, (32, 8, 64), intermediate_size=8192, vocab_size=128256, max_position_embeddings=131072
)
_GPT2 = {"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
_FLAN_T5_SMALL = {
    "model_type": "t5", "is_encoder_decoder": True, "num_layers": 8, "num_decoder_layers": 8, "d_model": 512,
    "d_kv": 64, "d_ff": 1024, "num_heads": 6, "n_positions": 512, "vocab_size": 32128,
}  # fmt: skip
_BART_BASE = {
    "model_type": "bart", "is_encoder_decoder": True, "encoder_layers": 6, "decoder_layers": 6, "d_model": 768,
    "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
    "max_position_embeddings": 1024, "vocab_size": 50265,
}  # fmt: skip

SHORT_LIST = (
    HubModel("HuggingFaceTB/SmolLM2-135M", 134_515_008, 269_030_016, "apache-2.0", _SMOL_135M),
    HubModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        134_515_008,
        269_030_016,
        "apache-2.0",
        _SMOL_135M,
        has_chat_template=True,
    ),
    HubModel("HuggingFaceTB/SmolLM2-360M", 361_821_120, 723_642_240, "apache-2.0", _SMOL_360M),
    HubModel(
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        361_821_120,
        723_642_240,
        "apache-2.0",
        _SMOL_360M,
        has_chat_template=True,
    ),
    HubModel("Qwen/Qwen3-0.6B", 751_632_384, 1_503_264_768, "apache-2.0", _QWEN_600M, has_chat_template=True),
    HubModel("Qwen/Qwen3-1.7B", 2_031_739_904, 4_063_479_808, "apache-2.0", _QWEN_1700M, has_chat_template=True),
    HubModel("google/gemma-3-270m", 268_098_176, 536_196_352, "gemma", _GEMMA_270M, gated=True),
    HubModel("meta-llama/Llama-3.2-1B", 1_235_814_400, 2_471_628_800, "llama3.2", _LLAMA_1B, gated=True),
    HubModel("openai-community/gpt2", 137_022_720, 548_090_880, "mit", _GPT2, dtype="F32"),
    HubModel("google/flan-t5-small", 76_961_152, 307_844_608, "apache-2.0", _FLAN_T5_SMALL, dtype="F32"),
    HubModel("facebook/bart-base", 139_420_416, 557_681_664, "apache-2.0", _BART_BASE, dtype="F32"),
)
