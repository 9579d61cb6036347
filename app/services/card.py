"""The README of an exported prefix: what it is, how it was made, how well it does, how to load it."""

import json
from typing import Any

from app.services.card_verdict import verdict_section
from app.services.markdown import code, fenced, plain
from app.services.methods import OWN_TENSORS_NAME, PLUS, title_of
from storage.schema.base_model import BaseModelSource
from storage.schema.prefix import Prefix
from worker.engine.prefix_file import PEFT_TYPES

SCORES = {
    "base_loss": "Base model alone",
    "instruction_loss": "Base model with the written instruction",
    "few_shot_loss": "Base model with examples in the prompt",
    "validation_loss": "With this prefix",
}
MAX_SAMPLES = 10


def card_of(
    prefix: Prefix,
    source: BaseModelSource,
    snippet: str,
    metrics: dict[str, Any],
    samples: list[dict[str, Any]],
    *,
    has_encoder: bool = False,
) -> str:
    """The card as Markdown.

    Args:
        prefix: Its row.
        source: Where its base comes from.
        snippet: The lines that load it, or ask this app for its answers.
        metrics: Its figures, with rows of the user's data only where they may stand in it.
        samples: Rows of the user's data with their answers, where they may stand in it.
        has_encoder: Whether the base is an encoder-decoder, whose prefixes PEFT cannot hold.
    """
    is_hub = source is BaseModelSource.HUB
    sections = [
        _front_matter(prefix, is_hub, has_encoder),
        f"# {plain(prefix.name)}",
        _what_it_is(prefix, has_encoder),
        *verdict_section(metrics.get("evaluation"), _sample),
        "## Base model",
        _base(prefix, is_hub),
        "## Load it",
        _how_to_load(prefix.method, has_encoder),
        fenced(snippet, "python"),
        "## Prompt",
        _prompt(prefix),
        "## Loss",
        _scores(metrics),
        "## Recipe",
        fenced(json.dumps(prefix.recipe, indent=2, ensure_ascii=False), "json"),
    ]
    if samples:
        sections += ["## Answers to held-out rows", *[_sample(sample) for sample in samples[:MAX_SAMPLES]]]
    return "\n\n".join(sections) + "\n"


def _front_matter(prefix: Prefix, is_hub: bool, has_encoder: bool) -> str:
    library = "prefix-studio" if prefix.method == PLUS else "transformers" if has_encoder else "peft"
    lines = ["---", f"library_name: {library}"]
    if is_hub:
        lines.append(f"base_model: {json.dumps(prefix.base_model)}")
    return "\n".join([*lines, f"tags: [{prefix.method}]", "---"])


def _how_to_load(method: str, has_encoder: bool) -> str:
    if method == PLUS:
        return (
            "PEFT and other programs cannot load this prefix: it is in Prefix Studio's own format, because half of its "
            "vectors stand outside attention's softmax. Import the zip into a Prefix Studio that has the base model, "
            "which then answers in OpenAI's form; these lines ask it, with `pip install openai`:"
        )
    if not has_encoder:
        return "Run this in the folder of this file, with `pip install torch transformers peft`:"
    return (
        "Import the zip into Prefix Studio, or run this in the folder of this file, with "
        "`pip install torch transformers safetensors`. PEFT cannot load this prefix: in encoder-decoders it knows "
        "prefixes of the decoder's attention to itself alone."
    )


def _what_it_is(prefix: Prefix, has_encoder: bool) -> str:
    if has_encoder:
        return (
            f"A prefix of {prefix.num_virtual_tokens:,} virtual tokens (keys and values in front of every attention of "
            f"encoder and decoder, {prefix.num_parameters:,} numbers), trained with Prefix Studio. The base model is "
            "unchanged."
        )
    if prefix.method == PLUS:
        return (
            f"A prefix of {prefix.num_virtual_tokens:,} virtual tokens by {title_of(PLUS)} (keys and values in every "
            f"layer, as many outside attention's softmax as in it, {prefix.num_parameters:,} numbers in "
            f"`{OWN_TENSORS_NAME}`), trained with Prefix Studio. The base model is unchanged."
        )
    kind = "keys and values in every layer" if prefix.method == "prefix-tuning" else "vectors at the input layer"
    peft_type = next(name for method, name in PEFT_TYPES.items() if method == prefix.method)
    return (
        f"A prefix of {prefix.num_virtual_tokens:,} virtual tokens ({kind}, {prefix.num_parameters:,} numbers, PEFT's "
        f"`{peft_type}`), trained with Prefix Studio. The base model is unchanged."
    )


def _base(prefix: Prefix, is_hub: bool) -> str:
    name = code(prefix.base_model)
    where = (
        f"{name} on the Hugging Face Hub, commit {code(prefix.base_revision or 'not recorded')}."
        if is_hub
        else f"{name}, which is on no hub. Download it in Prefix Studio (Prefixes, base models) and unpack it here."
    )
    bits = {"int8": "8", "int4": "4"}.get(str(prefix.recipe.get("precision")))
    note = (
        f" The prefix was trained with the weights of its linear layers held in {bits} bit (bitsandbytes); in full "
        "precision its answers may differ a little."
        if bits
        else ""
    )
    return f"{where} Fingerprint of its weights: `{prefix.base_fingerprint}`.{note}"


def _prompt(prefix: Prefix) -> str:
    rendering = prefix.rendering
    kinds = {"chat": "one user message of the chat template", "conversation": "all its turns in the chat template"}
    kind = kinds.get(str(rendering.get("kind")), "plain text")
    parts = [
        f"Each row becomes a prompt as {kind}; the answer was column {code(str(rendering.get('target', '')))}.",
        fenced(str(rendering.get("template", "")), "text"),
    ]
    if rendering.get("instruction"):
        parts += ["The instruction that the prefix started from:", fenced(str(rendering["instruction"]), "text")]
    return "\n\n".join(parts)


def _scores(metrics: dict[str, Any]) -> str:
    rows = [(label, metrics.get(name)) for name, label in SCORES.items()]
    known = [f"| {label} | {value:.4f} |" for label, value in rows if isinstance(value, (int, float))]
    if not known:
        return "None were recorded."
    return "\n".join(
        ["Loss per target token on the validation rows, in nats:", "", "| | loss |", "| --- | --- |", *known]
    )


def _sample(sample: dict[str, Any]) -> str:
    labels = {"prompt": "Prompt", "expected": "Expected", "base": "Base", "prefix": "With the prefix"}
    parts = [f"{label}:\n\n{fenced(str(sample[key]), 'text')}" for key, label in labels.items() if key in sample]
    return "\n\n".join(parts)
