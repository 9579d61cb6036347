"""A frozen base model, loaded from a folder with nothing but its weights and its tokenizer."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from worker.engine.attention import install
from worker.engine.encoder_decoder import decoder_start_ids
from worker.engine.errors import UnsupportedModelError
from worker.engine.families import Geometry, check_family, geometry
from worker.engine.frozen_norm import take_over_norms
from worker.engine.packed_linear import take_over_linears
from worker.engine.quantisation import check_quantisation, is_quantised
from worker.engine.quantised_linear import num_weights, take_over
from worker.engine.recipe import Precision

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedBase:
    """A base model ready for prefixes: frozen, in eval mode, with our attention installed.

    Attributes:
        model: The causal language model, or encoder-decoder.
        tokenizer: Its tokenizer; `pad_token` is always set.
        geometry: Its measurements.
        device: Where it computes.
        dtype: Number format that it computes in.
        decoder_start_ids: What stands in front of every answer of an encoder-decoder; empty for other models.
        precision: What it was loaded in; int8 and int4 hold its linear layers in as many bits, and `dtype` is then what
            it computes in.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    decoder_start_ids: tuple[int, ...] = ()
    precision: Precision = "auto"

    @property
    def number_format(self) -> str:
        """What its weights are held and computed in, in words."""
        computed = str(self.dtype).removeprefix("torch.")
        return f"{self.precision} weights computed in {computed}" if is_quantised(self.precision) else computed

    @property
    def num_parameters(self) -> int:
        """Numbers in the base, tied ones once."""
        return num_weights(self.model)


def load_base(folder: Path, *, device: str = "auto", dtype: Precision = "auto") -> LoadedBase:
    """Loads a base model; no code of the folder is run and no pickle is read.

    Args:
        folder: A model folder with config.json, safetensors and a tokenizer.
        device: `auto` takes CUDA, then Apple's MPS, then the CPU; or a torch device.
        dtype: `auto` computes in bfloat16 where that is fast (see `choose_dtype`) and in fp32 elsewhere; int8 and int4
            hold the weights of linear layers in as many bits.

    Raises:
        UnsupportedModelError: The family takes no prefix, or the folder holds no safetensors.
        UnsupportedPrecisionError: The number format cannot be had here.
    """
    config = _read_config(folder)
    check_family(config)
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedModelError(
            f"{folder.name} holds no safetensors weights, and other kinds can run code when read. "
            "Convert the model to safetensors, or choose another one."
        )
    check_quantisation(dtype, str(config.get("model_type")))
    target = choose_device(device)
    number_format = choose_dtype(dtype, target, _stored_dtype(config))
    measured = geometry(config)
    auto_class = AutoModelForSeq2SeqLM if measured.has_encoder else AutoModelForCausalLM
    model = auto_class.from_pretrained(
        folder,
        dtype=number_format,
        attn_implementation="eager",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        **_quantised(dtype, target),
    )
    if is_quantised(dtype):
        take_over(model)
    else:
        model = model.to(target)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return replace(prepare_base(model, tokenizer, measured), precision=dtype)


def prepare_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, measured: Geometry) -> LoadedBase:
    """Freezes a model that is in memory already and lets its attention take prefixes.

    Args:
        model: Already where it shall compute, in the number format that it shall have.
        tokenizer: Gets its end token as `pad_token` where it has none; padding is masked everywhere.
        measured: Its measurements.
    """
    model.requires_grad_(False).eval()
    install(model)
    take_over_norms(model)
    take_over_linears(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    start_ids = decoder_start_ids(model, tokenizer)
    return LoadedBase(model, tokenizer, measured, model.device, model.dtype, start_ids)


def choose_device(wish: str = "auto") -> torch.device:
    """The device to compute on: the wish, or the fastest there is."""
    if wish != "auto":
        return torch.device(wish)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(wish: Precision, device: torch.device, stored: str | None = None) -> torch.dtype:
    """The number format of the base: the wish, or bfloat16 where that is faster, and fp32 elsewhere.

    A GPU gets bfloat16 wherever it computes in it; a CPU where it has instructions for it and the weights are stored
    in it already, so that they lose nothing.

    Args:
        wish: What the recipe says.
        device: Where the base computes.
        stored: Number format of the weights on disk, as config.json names it.
    """
    if wish in DTYPES:
        return DTYPES[wish]
    if device.type == "cpu":
        is_fast = wish == "auto" and stored == "bfloat16" and cpu_has_bfloat16()
    else:
        is_fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_fast else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16 by instructions of its own (AVX-512 BF16, AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _quantised(precision: Precision, target: torch.device) -> dict[str, Any]:
    """What transformers is told so that linear layers are quantised while they are loaded, one after another."""
    if not is_quantised(precision):
        return {}
    config = BitsAndBytesConfig(
        load_in_8bit=precision == "int8", load_in_4bit=precision == "int4", bnb_4bit_quant_type="nf4"
    )
    return {"quantization_config": config, "device_map": {"": target}}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer (name, dtype, shape, bytes), sorted by name: proves a base unchanged."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _stored_dtype(config: dict[str, object]) -> str | None:
    """Older folders call it `torch_dtype`."""
    stored = config.get("dtype") or config.get("torch_dtype")
    return str(stored) if stored else None


def _read_config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{folder.name} has no readable config.json; expected a model folder as transformers saves it."
        ) from error
    if not isinstance(config, dict):
        raise UnsupportedModelError(f"config.json in {folder.name} is not an object; the folder is damaged.")
    return config
