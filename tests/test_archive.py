"""The exported zip in the hands of others: PEFT loads it and matches, and the card's lines run as they stand."""

import io
import json
import re
import zipfile

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from app.services import prefixes
from app.services.folder_zip import base_model_zip
from app.services.snippet import prompt_expression
from storage.schema.base_model import BaseModelSource
from tests.prefixes import NUM_VIRTUAL_TOKENS, RENDERING, TEMPLATE, add_prefix, random_array, tiny_context
from tests.tiny import FAMILIES
from worker.engine.families import Geometry, geometry
from worker.engine.rendering import Rendering, render_prompt
from worker.engine.tokens import encode_prompt, end_token_id

# PEFT still asks transformers by a name that goes away in its next major version.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # It says so of every prompt tuning that generates; the positions that follow are the right ones.
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning:UserWarning"),
]


@pytest.fixture
def context_of(settings, database, store, tmp_path):
    return lambda family="llama", chat=False: tiny_context(settings, database, store, tmp_path / "models", family, chat)


def unpacked(context, prefix, folder, **options):
    path = prefixes.export(context, prefix.id, **options)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def load(context):
    folder = context.settings.models / "tiny"
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), AutoTokenizer.from_pretrained(folder)


def logits_with(model, values, ids):
    """Logits of a prompt behind a prefix, without PEFT: keys and values as a cache, or vectors before the embedding."""
    numbers = torch.from_numpy(values)
    if numbers.ndim == 2:
        embedded = torch.cat([numbers[None], model.get_input_embeddings()(ids)], dim=1)
        return model(inputs_embeds=embedded).logits[:, len(numbers) :]
    cache = DynamicCache([(layer[0][None], layer[1][None]) for layer in numbers])
    mask = torch.ones(1, NUM_VIRTUAL_TOKENS + ids.shape[1], dtype=torch.long)
    return model(ids, past_key_values=cache, attention_mask=mask).logits


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_peft_loads_the_zip_and_gives_the_logits_of_the_keys_and_values_themselves(
    context_of, tmp_path, family, method
):
    context = context_of(family)
    prefix = add_prefix(context, tmp_path, method=method)
    folder = unpacked(context, prefix, tmp_path / "unpacked")
    model, _ = load(context)
    measured = geometry(json.loads((context.settings.models / "tiny" / "config.json").read_text()))
    ids = torch.tensor([[7, 30, 99, 41, 12]])
    expected = logits_with(model, random_array(measured, method).values, ids)
    wrapped = PeftModel.from_pretrained(model, folder).eval()
    found = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]
    assert (found - expected).abs().max() < 1e-5
    assert (found - load(context)[0](ids).logits).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "chat", "method"),
    [
        ("llama", False, "prefix-tuning"),
        ("llama", True, "prefix-tuning"),
        ("gpt2", False, "prefix-tuning"),
        ("gemma3_text", False, "prefix-tuning"),
        ("llama", False, "prompt-tuning"),
    ],
)
def test_snippet_of_the_card_runs_as_it_stands(context_of, tmp_path, monkeypatch, capsys, family, chat, method):
    context = context_of(family, chat)
    rendering = {**RENDERING, "kind": "chat" if chat else "plain"}
    prefix = add_prefix(context, tmp_path, method=method, rendering=rendering)
    folder = unpacked(context, prefix, tmp_path / "unpacked")
    archive = io.BytesIO(b"".join(base_model_zip(context, "tiny")[1]))
    zipfile.ZipFile(archive).extractall(folder)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    assert code.strip() == prefixes.load_snippet(context, prefix.id).strip()

    monkeypatch.chdir(folder)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)

    model, tokenizer = load(context)
    row = {"name": "your name", "kind of food": "your kind of food"}
    prompt_ids = encode_prompt(tokenizer, Rendering.from_dict(rendering), render_prompt(TEMPLATE, row))
    ids = namespace["output"][0].tolist()
    answer = ids[len(prompt_ids) :]
    assert ids[: len(prompt_ids)] == prompt_ids
    measured = geometry(json.loads((folder / "tiny" / "config.json").read_text()))
    logits = logits_with(model, random_array(measured, method).values, torch.tensor([ids]))[0]
    assert logits[len(prompt_ids) - 1 : -1].argmax(-1).tolist() == answer
    ends = {tokenizer.eos_token_id, end_token_id(tokenizer, rendering["kind"])}
    assert len(answer) == 64 or answer[-1] in ends
    assert not ends & set(answer[:-1])
    assert capsys.readouterr().out.strip() == tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("template", "row"),
    [
        ("{text}", {"text": "a"}),
        (" {a.b[0]!r:>10} and {c d}", {"a.b[0]!r:>10": "1", "c d": "2"}),
        ("{{literal}} {x} }} {", {"x": "{y}"}),
        ("quotes ' \" \\ \n{x}", {"x": "'\"\\n"}),
        ("{x}{x}", {"x": "é\u202e"}),
    ],
)
def test_prompt_expression_fills_a_template_as_the_app_does(template, row):
    assert eval(prompt_expression(template), {"row": row}) == render_prompt(template, row)


def test_card_and_record_leave_rows_out_unless_asked(context_of, tmp_path):
    context = context_of()
    prefix = add_prefix(context, tmp_path)
    without = unpacked(context, prefix, tmp_path / "without")
    assert sorted(path.name for path in without.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "prefix-studio.json",
    ]
    assert not any(b"PRIVATE ROW" in path.read_bytes() for path in without.iterdir())
    included = unpacked(context, prefix, tmp_path / "included", include_rows=True)
    assert b"PRIVATE ROW" in (included / "README.md").read_bytes()
    assert b"PRIVATE ROW" in (included / "prefix-studio.json").read_bytes()


def test_card_says_base_scores_and_recipe(context_of, tmp_path):
    context = context_of()
    prefix = add_prefix(context, tmp_path)
    card = (unpacked(context, prefix, tmp_path / "unpacked") / "README.md").read_text()
    assert prefix.base_fingerprint in card
    assert "| With this prefix | 1.5000 |" in card
    assert "| Base model alone | 3.2500 |" in card
    assert '"method": "prefix-tuning"' in card
    assert "Say where to eat." in card


def test_card_of_a_hub_base_names_its_commit(context_of, tmp_path):
    from app.services.snippet import snippet_of

    prefix = add_prefix(context_of(), tmp_path, base_model="someone/small", base_revision="a" * 40)
    snippet = snippet_of(prefix, BaseModelSource.HUB, Geometry(2, 2, 8, 32, 400, 256))
    assert f"from_pretrained(base, revision={'a' * 40!r})" in snippet
    assert "base = 'someone/small'\n" in snippet


def test_text_of_users_cannot_break_out_of_the_card(context_of, tmp_path):
    context = context_of()
    nasty = "```\n# heading\n<img src=x onerror=alert(1)>\n````"
    rendering = {**RENDERING, "template": nasty + "{text}", "instruction": nasty, "target": "`x`<b>"}
    prefix = add_prefix(context, tmp_path, name="<img onerror=alert(1)> [a](javascript:x)", rendering=rendering)
    card = (unpacked(context, prefix, tmp_path / "unpacked") / "README.md").read_text()
    assert "`````text\n```\n# heading" in card
    assert "# \\<img onerror=alert\\(1\\)\\> \\[a\\]\\(javascript:x\\)" in card
    assert "`` `x`<b> ``" in card
