"""The download of an encoder-decoder's prefix: its lines run with plain transformers, and it can be imported again."""

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.numpy import load_file

from app.context import AppContext
from app.services import prefixes
from storage.errors import InvalidInputError
from storage.schema.prefix import Prefix
from tests.prefixes import NUM_VIRTUAL_TOKENS, RENDERING, TEMPLATE, add_prefix, random_array
from tests.tiny import tiny_base_folder
from tests.tiny_seq2seq import tiny_seq2seq, tiny_seq2seq_folder
from worker.engine.base import load_base
from worker.engine.errors import InvalidPrefixFileError
from worker.engine.generate import GenerationRow, end_ids, stream
from worker.engine.prompt_tuning import load_bank
from worker.engine.rendering import Rendering, render_prompt
from worker.engine.tokens import encode_prompt

ROW = {"name": "your name", "kind of food": "your kind of food"}


@pytest.fixture
def context_of(settings, database, store, tmp_path):
    def make(family: str = "t5") -> AppContext:
        tiny_seq2seq_folder(tmp_path / "models" / "tiny", family)
        return AppContext(replace(settings, models=tmp_path / "models"), database, store)

    return make


def unpacked(context: AppContext, prefix: Prefix, folder: Path) -> Path:
    with zipfile.ZipFile(prefixes.export(context, prefix.id)) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("family", ["t5", "t5-gated", "bart"])
def test_snippet_of_the_card_answers_as_the_app_does(context_of, tmp_path, monkeypatch, capsys, family):
    context = context_of(family)
    folder = unpacked(context, add_prefix(context, tmp_path), tmp_path / "unpacked")
    shutil.copytree(context.settings.models / "tiny", folder / "tiny")
    # As many layers in both stacks: transformers' own generate gives the decoder a cache of the encoder's length.
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    namespace: dict = {}
    exec(compile(code.replace("**plainly", "**plainly, use_cache=False"), "README.md", "exec"), namespace)

    base = load_base(context.settings.models / "tiny", device="cpu")
    bank = load_bank(base, [random_array(base.geometry)])
    prompt = encode_prompt(base.tokenizer, Rendering.from_dict(RENDERING), render_prompt(TEMPLATE, ROW))
    row = GenerationRow(tuple(prompt), slot=0, max_new_tokens=64, end_ids=end_ids(base))
    expected = [event.token_id for events in stream(base, bank, [row]) for event in events]
    start = list(base.decoder_start_ids)
    assert namespace["output"][0].tolist() == [*start, *expected]
    base_alone = replace(row, slot=-1)
    assert expected != [event.token_id for events in stream(base, None, [base_alone]) for event in events]
    assert capsys.readouterr().out.strip() == base.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_download_says_that_peft_cannot_load_it_and_peft_does_not(context_of, tmp_path):
    context = context_of()
    folder = unpacked(context, add_prefix(context, tmp_path), tmp_path / "unpacked")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "prefix-studio.json", "prefix.safetensors"]
    card = (folder / "README.md").read_text()
    assert "PEFT cannot load this prefix" in card
    assert "library_name: transformers" in card
    with pytest.raises(ValueError, match=r"adapter_config.json"):
        PeftModel.from_pretrained(tiny_seq2seq("t5"), folder)


def test_zip_goes_round(context_of, tmp_path):
    context = context_of("bart")
    prefix = add_prefix(context, tmp_path)
    path = prefixes.export(context, prefix.id)
    imported = prefixes.import_zip(context, path)
    assert imported["num_virtual_tokens"] == NUM_VIRTUAL_TOKENS
    again = unpacked(context, prefix, tmp_path / "again")
    first = load_file(again / "prefix.safetensors")["prompt_embeddings"]
    with zipfile.ZipFile(prefixes.export(context, imported["id"])) as archive:
        archive.extractall(tmp_path / "second")
    assert (load_file(tmp_path / "second" / "prefix.safetensors")["prompt_embeddings"] == first).all()


def without_fingerprint(path: Path, target: Path) -> Path:
    """The same zip as if another tool had made it, so that any base may be named."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "prefix-studio.json":
                content = re.sub(rb'"fingerprint": "\w+"', b'"fingerprint": null', content)
            copy.writestr(name, content)
    return target


def test_prefix_of_the_other_kind_of_base_is_refused(context_of, tmp_path):
    context = context_of()
    path = prefixes.export(context, add_prefix(context, tmp_path).id)
    tiny_base_folder(context.settings.models / "decoder")
    foreign = without_fingerprint(path, tmp_path / "foreign.zip")
    with pytest.raises(InvalidInputError, match="made for a model with encoder and decoder"):
        prefixes.import_zip(context, foreign, "decoder")
    folder = tmp_path / "of peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    zipped = Path(shutil.make_archive(str(tmp_path / "peft"), "zip", folder))
    with pytest.raises(InvalidInputError, match="made for a model that only decodes"):
        prefixes.import_zip(context, zipped, "tiny")
    (folder / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING", "task_type": "SEQ_2_SEQ_LM"}')
    zipped = Path(shutil.make_archive(str(tmp_path / "peft"), "zip", folder))
    with pytest.raises(InvalidPrefixFileError, match="stand in front of the decoder alone"):
        prefixes.import_zip(context, zipped, "decoder")


def test_card_of_a_prefix_trained_on_a_quantised_base_says_so(context_of, tmp_path):
    context = context_of()
    prefix = add_prefix(context, tmp_path, recipe={"method": "prefix-tuning", "precision": "int4"})
    assert "linear layers held in 4 bit" in (unpacked(context, prefix, tmp_path / "unpacked") / "README.md").read_text()
