"""A prefix that PEFT cannot load: what its download holds and says, and how it gets in again."""

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
from peft import PeftModel
from safetensors.numpy import load_file, save

from app.context import AppContext
from app.services import prefixes
from app.ui import prefix_view
from storage.errors import InvalidInputError, WrongBaseError
from storage.prefixes import get_prefix
from tests.prefixes import NUM_VIRTUAL_TOKENS, RENDERING, TEMPLATE, add_prefix, tiny_context
from tests.tiny import tiny_base_folder, tiny_model, tiny_tokenizer
from tests.tiny_seq2seq import tiny_seq2seq_folder
from worker.engine.errors import InvalidPrefixFileError
from worker.engine.prefix_file import TENSOR, TENSORS_NAME
from worker.engine.rendering import Rendering, render_prompt
from worker.engine.tokens import encode_prompt

PLUS = "prefix-tuning-plus"
NUMBERS, RECORD = "prefix.safetensors", "prefix-studio.json"
NOTE = "PEFT and other programs cannot load it"
ROW = {"name": "your name", "kind of food": "your kind of food"}

Members = dict[str, bytes]


@pytest.fixture
def context(settings, database, store, tmp_path) -> AppContext:
    return tiny_context(settings, database, store, tmp_path / "models")


@pytest.fixture
def members(context, tmp_path) -> Members:
    """What the download of such a prefix holds."""
    with zipfile.ZipFile(prefixes.export(context, add_prefix(context, tmp_path, method=PLUS).id)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def take(context: AppContext, members: Members, base_model: str | None = None) -> dict[str, Any]:
    path = context.settings.home / "sent.zip"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    path.write_bytes(data.getvalue())
    return prefixes.import_zip(context, path, base_model)


def with_record(members: Members, **changes: Any) -> Members:
    """The same zip with another record; a value of None takes the field out."""
    record = json.loads(members[RECORD]) | changes
    return {**members, RECORD: json.dumps({key: value for key, value in record.items() if value is not None}).encode()}


def without_fingerprint(members: Members) -> Members:
    """As if another tool had made it, so that any base may be named."""
    return with_record(members, base={"name": "tiny"})


def test_download_holds_no_config_of_peft_and_peft_does_not_load_it(members: Members, tmp_path: Path) -> None:
    assert sorted(members) == ["README.md", RECORD, NUMBERS]
    assert json.loads(members[RECORD])["method"] == PLUS
    card = members["README.md"].decode()
    assert "library_name: prefix-studio\ntags: [prefix-tuning-plus]" in card
    assert "by Prefix tuning+ (keys and values in every layer, as many outside attention's softmax as in it" in card
    assert "PEFT and other programs cannot load this prefix" in card
    assert "from peft" not in card
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    assert load_file(tmp_path / NUMBERS)[TENSOR].shape[0] == 2 * NUM_VIRTUAL_TOKENS
    with pytest.raises(ValueError, match=r"adapter_config.json"):
        PeftModel.from_pretrained(tiny_model("llama"), tmp_path)


def test_prefix_comes_back_with_its_method_and_the_same_file(context: AppContext, tmp_path: Path) -> None:
    prefix = add_prefix(context, tmp_path, method=PLUS)
    path = prefixes.export(context, prefix.id)
    prefixes.remove(context, prefix.id)
    imported = prefixes.import_zip(context, path)
    assert (imported["name"], imported["method"]) == ("Where to eat", PLUS)
    assert (imported["num_virtual_tokens"], imported["num_parameters"]) == (NUM_VIRTUAL_TOKENS, prefix.num_parameters)
    assert stored_hash(context, imported["id"]) == prefix.artifact_hash


def stored_hash(context: AppContext, prefix_id: str) -> str:
    with context.database.read() as session:
        return get_prefix(session, prefix_id).artifact_hash


def test_page_says_beside_the_download_that_other_programs_cannot_load_it(context: AppContext, tmp_path: Path) -> None:
    plus, plain = (
        prefixes.describe(context, add_prefix(context, tmp_path, name, method=name).id)
        for name in (PLUS, "prefix-tuning")
    )
    assert NOTE in plus["format_note"]
    assert NOTE in prefix_view.detail(plus)
    assert "<dd>Prefix tuning+</dd>" in prefix_view.detail(plus)
    assert plain["format_note"] is None
    assert NOTE not in prefix_view.detail(plain)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda kept: with_record(kept, method=None), "does not say by which method the prefix was trained"),
        (
            lambda kept: with_record(kept, method="prefix-tuning-max"),
            "this Prefix Studio knows prefix-tuning, prompt-tuning",
        ),
        (lambda kept: with_record(kept, method="prefix-tuning"), "made for a model with encoder and decoder"),
        (lambda kept: {name: kept[name] for name in (NUMBERS, "README.md")}, f"has no {RECORD}"),
    ],
)
def test_zip_whose_method_is_not_known_is_refused(
    context: AppContext, members: Members, change: Callable[[Members], Members], match: str
) -> None:
    with pytest.raises(InvalidInputError, match=match):
        take(context, change(members))


def test_table_with_an_odd_number_of_rows_is_refused(context: AppContext, members: Members, tmp_path: Path) -> None:
    (tmp_path / NUMBERS).write_bytes(members[NUMBERS])
    table = load_file(tmp_path / NUMBERS)[TENSOR]
    with pytest.raises(InvalidPrefixFileError, match=r"has \[2 to 8192, even"):
        take(context, {**members, NUMBERS: save({TENSOR: np.ascontiguousarray(table[:-1])})})


def test_prefix_of_another_base_is_refused(context: AppContext, members: Members) -> None:
    models = context.settings.models
    assert models is not None
    tiny_base_folder(models / "other", "gpt2")
    tiny_seq2seq_folder(models / "reader")
    with pytest.raises(WrongBaseError, match="trained on 'tiny' with the fingerprint"):
        take(context, members, "other")
    with pytest.raises(InvalidInputError, match=r"It was made for 'tiny'\. Name its base model"):
        take(context, without_fingerprint(members))
    with pytest.raises(InvalidPrefixFileError, match="Choose the base model that it was trained on"):
        take(context, without_fingerprint(members), "other")
    with pytest.raises(InvalidInputError, match=r"made with Prefix tuning\+ for a model that only decodes"):
        take(context, without_fingerprint(members), "reader")


def test_folder_of_peft_whose_record_tells_another_method_is_refused(context: AppContext, tmp_path: Path) -> None:
    with zipfile.ZipFile(prefixes.export(context, add_prefix(context, tmp_path).id)) as archive:
        plain = {name: archive.read(name) for name in archive.namelist()}
    assert TENSORS_NAME in plain
    with pytest.raises(InvalidInputError, match=f"says prefix-tuning, but {RECORD} says {PLUS}"):
        take(context, with_record(plain, method=PLUS))


class FakeClient:
    """Stands for `openai.OpenAI`, and notes what it is asked."""

    def __init__(self, **settings: str) -> None:
        self.asked: dict[str, Any] = {}
        self.completions = SimpleNamespace(create=self._create)
        self.chat = SimpleNamespace(completions=self.completions)

    def _create(self, **asked: Any) -> Any:
        self.asked = asked
        return SimpleNamespace(choices=[SimpleNamespace(text=" soup", message=SimpleNamespace(content=" soup"))])


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_lines_of_the_card_ask_this_app_for_the_prompt_of_the_training(
    context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    rendering = {**RENDERING, "kind": kind}
    prefix = add_prefix(context, tmp_path, "it's “soup”", method=PLUS, rendering=rendering)
    with zipfile.ZipFile(prefixes.export(context, prefix.id)) as archive:
        card = archive.read("README.md").decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert code.strip() == prefixes.load_snippet(context, prefix.id).strip()
    monkeypatch.setattr(openai, "OpenAI", FakeClient)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    asked = namespace["client"].asked
    assert (asked["model"], asked["temperature"]) == ("it's “soup”", 0)
    assert capsys.readouterr().out == "soup\n"
    prompt = render_prompt(TEMPLATE, ROW)
    if kind == "chat":
        assert asked["messages"] == [{"role": "user", "content": prompt}]
        return
    tokenizer = tiny_tokenizer()
    assert tokenizer(asked["prompt"]).input_ids == encode_prompt(tokenizer, Rendering.from_dict(rendering), prompt)
