"""PEFT's methods as a user would set them up, from the same base and the same text as ours."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.quality.plan import NUM_RATES
from worker.engine.attention import install
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, prepare_base
from worker.engine.prompt_tuning import bank_of


@dataclass(frozen=True)
class Start:
    """What a peer starts from.

    Attributes:
        folder: The base's folder.
        base: The same base as ours has it, for its tokenizer and number format.
        num_virtual_tokens: Length P, the one that the automatic recipe chose for ours.
        text: The text that ours starts from: the instruction, then training rows; at least P tokens.
    """

    folder: Path
    base: LoadedBase
    num_virtual_tokens: int
    text: str

    def model(self) -> PreTrainedModel:
        """A fresh copy of the base; without a prefix of ours its attention computes what the stock one does, faster."""
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=self.base.dtype, attn_implementation="eager", local_files_only=True
        )
        install(model)
        return model.to(self.base.device).eval()


@dataclass(frozen=True)
class Peer:
    """One method of PEFT.

    Attributes:
        title: For the table.
        low, high: Between which rates are tried (AdamW), found in a pilot on this base.
        build: Makes the trainable model; random numbers come from torch's global generator.
        num_rates: Rates that are tried at equal ratios between the two; of one it is the middle, and the steps that
            the others would have cost go into a longer training.
    """

    title: str
    low: float
    high: float
    build: Callable[[Start], PeftModel]
    num_rates: int = NUM_RATES


def _prefix_default(start: Start) -> PeftModel:
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=start.num_virtual_tokens)
    return peft.get_peft_model(start.model(), config)


def _prefix_from_text(start: Start) -> PeftModel:
    return _from_text(start, _prefix_default(start))


def _cartridge_from_text(start: Start) -> PeftModel:
    config = peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=start.num_virtual_tokens)
    return _from_text(start, peft.get_peft_model(start.model(), config))


def _from_text(start: Start, model: PeftModel) -> PeftModel:
    # The text holds the turns of a chat already where the base has a template.
    peft.initialize_kv_prefix_from_text(model, start.base.tokenizer, text=start.text, use_chat_template=False)
    return model


def _prompt_from_text(start: Start) -> PeftModel:
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=start.num_virtual_tokens,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=start.text,
        tokenizer_name_or_path=str(start.folder),
    )
    return peft.get_peft_model(start.model(), config)


def _lora(rank: int) -> Callable[[Start], PeftModel]:
    def build(start: Start) -> PeftModel:
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
        )
        return peft.get_peft_model(start.model(), config)

    return build


PEERS: dict[str, Peer] = {
    "peft_prefix": Peer("PEFT prefix, default start", 8e-2, 4e-1, _prefix_default),
    "peft_prefix_one_rate": Peer("PEFT prefix, default start, one rate", 8e-2, 4e-1, _prefix_default, num_rates=1),
    "peft_prefix_text": Peer("PEFT prefix from text", 8e-2, 4e-1, _prefix_from_text),
    "peft_cartridge_text": Peer("PEFT CARTRIDGE from text", 8e-2, 4e-1, _cartridge_from_text),
    "peft_prompt": Peer("PEFT prompt tuning from text", 3e-2, 3e-1, _prompt_from_text),
    "peft_lora_8": Peer("PEFT LoRA r=8, all linear layers", 2e-3, 1.2e-2, _lora(8)),
    "peft_lora_32": Peer("PEFT LoRA r=32, all linear layers", 1e-3, 6e-3, _lora(32)),
}
PREFIX_PEERS = ("peft_prefix", "peft_prefix_one_rate", "peft_prefix_text", "peft_cartridge_text")
PROMPT_PEERS = ("peft_prompt",)
LORA_GOAL = "peft_lora_32"


def build(peer: Peer, start: Start, seed: int) -> PeftModel:
    """The peer's trainable model in its first state, the same for the same seed."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer.build(start).eval()


def for_use(model: PeftModel, base: LoadedBase) -> tuple[LoadedBase, PrefixBank | None]:
    """The trained peer as the engine takes it: a bank for the untouched base, or a base with LoRA's layers inside.

    Exact: a test holds the losses equal to those of PEFT's own forward. LoRA is not merged, because the sum would be
    rounded to the base's number format.
    """
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return prepare_base(model.get_base_model(), base.tokenizer, base.geometry), None
    if config.peft_type == peft.PeftType.PROMPT_TUNING:
        with torch.no_grad():
            return base, prompt_bank(model, base)
    table = model.get_prompt_embedding_to_save(model.active_adapter).to(base.device)
    measured = base.geometry
    shape = (len(table), measured.num_layers, 2, measured.num_kv_heads, measured.head_dim)
    return base, PrefixBank(table.view(shape).permute(1, 2, 3, 0, 4).unsqueeze(0).to(base.dtype))


def prompt_bank(model: PeftModel, base: LoadedBase) -> PrefixBank:
    """What PEFT's trained input vectors become in every layer, with the graph back to them."""
    return PrefixBank(bank_of(base, "prompt-tuning", model.get_prompt(1)).kv)
