"""The frozen examples of the contract: given texts always become the same ids (docs/contract.md).

Where the contract is changed on purpose, `python tests/test_golden.py` writes the new ids; read the difference.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_example, encode_prompt, initialisation_ids, render_row

FOLDER = Path(__file__).parent / "golden"
ROWS = FOLDER / "rows.json"
GOLDEN: dict[str, Any] = json.loads(ROWS.read_text(encoding="utf-8"))


def golden_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The stored tokenizer, dressed as one of the kinds that bases have."""
    settings = dict(GOLDEN["tokenizers"][name])
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    if settings.pop("adds_start", False):
        start = settings["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, tokenizer.token_to_id(start))]
        )
    template = settings.pop("chat_template", None)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    wrapped.chat_template = template
    return wrapped


def encode_case(case: dict[str, Any]) -> dict[str, Any]:
    """What the engine makes of a frozen case, as the file holds it."""
    tokenizer = golden_tokenizer(case["tokenizer"])
    rendering = Rendering.from_dict(case["rendering"])
    prompt_ids = encode_prompt(
        tokenizer,
        rendering,
        render_row(rendering, case["row"])[0],
        context=case.get("context", "none"),
        few_shot=[tuple(shot) for shot in case.get("few_shot", [])],
    )
    target_ids = list(encode_example(tokenizer, rendering, case["row"]).target_ids)
    return {
        "prompt_text": tokenizer.decode(prompt_ids),
        "target_text": tokenizer.decode(target_ids),
        "prompt_ids": prompt_ids,
        "target_ids": target_ids,
    }


def encode_start(case: dict[str, Any]) -> dict[str, Any]:
    """What the engine starts a prefix from, as the file holds it."""
    tokenizer = golden_tokenizer(case["tokenizer"])
    rendering = Rendering.from_dict(case["rendering"])
    ids = initialisation_ids(tokenizer, rendering, case["rows"], case["num_virtual_tokens"])
    return {"text": tokenizer.decode(ids), "ids": ids}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_row_becomes_the_frozen_ids(case: dict[str, Any]) -> None:
    assert encode_case(case) == case["expected"]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_prompt_has_the_same_ids_in_training_and_in_use(case: dict[str, Any]) -> None:
    tokenizer = golden_tokenizer(case["tokenizer"])
    rendering = Rendering.from_dict(case["rendering"])
    in_use = encode_prompt(tokenizer, rendering, render_row(rendering, case["row"])[0])
    assert tuple(in_use) == encode_example(tokenizer, rendering, case["row"]).prompt_ids


@pytest.mark.parametrize("case", GOLDEN["initialisation"], ids=lambda case: case["name"])
def test_prefix_starts_from_the_frozen_ids(case: dict[str, Any]) -> None:
    assert encode_start(case) == case["expected"]
    assert len(case["expected"]["ids"]) == case["num_virtual_tokens"]


def write_golden() -> None:
    """Freezes what the engine does now."""
    for case in GOLDEN["cases"]:
        case["expected"] = encode_case(case)
    for case in GOLDEN["initialisation"]:
        case["expected"] = encode_start(case)
    text = json.dumps(GOLDEN, indent=1, ensure_ascii=True)
    ROWS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_golden()
