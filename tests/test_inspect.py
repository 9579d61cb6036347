"""What is read from a base model's folder, and what is refused before anything is loaded."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from storage.bases.inspect import inspect_folder, read_license
from storage.errors import InvalidInputError

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4}


def model_folder(root, name="small", config=None, weights=True):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    (folder / "tokenizer.json").write_text("{}")
    if weights:
        tensors = {"embed": np.ones((3, 4), np.float16), "norm": np.ones(4, np.float32)}
        save_file(tensors, folder / "model.safetensors")
    return folder


def sharded_folder(root, weight_map):
    folder = model_folder(root, weights=False)
    save_file({"embed": np.ones((3, 4), np.float32)}, folder / "model-1-of-2.safetensors")
    save_file({"norm": np.ones(4, np.float32)}, folder / "model-2-of-2.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


WHOLE_MAP = {"embed": "model-1-of-2.safetensors", "norm": "model-2-of-2.safetensors"}


def test_folder_tells_its_facts(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Small\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    found = inspect_folder(folder, tmp_path)
    assert found.config["model_type"] == "llama"
    assert found.details == {
        "num_parameters": 16,
        "dtype": "F16",
        "size_bytes": 40,
        "has_chat_template": True,
        "license": "apache-2.0",
    }


def test_shards_are_read_together(tmp_path):
    found = inspect_folder(sharded_folder(tmp_path, WHOLE_MAP), tmp_path)
    assert [tensor.name for tensor in found.tensors] == ["embed", "norm"]
    assert found.details["num_parameters"] == 16


def test_chat_template_is_found_in_the_tokenizer_config(tmp_path):
    folder = model_folder(tmp_path)
    assert not inspect_folder(folder, tmp_path).has_chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert inspect_folder(folder, tmp_path).has_chat_template


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# no front matter\nlicense: mit\n", None),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense: llama3.2\ntags:\n- a\n---\n", "llama3.2"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("---\nlicense: <img src=x onerror=alert(1)>\n---\n", None),
    ],
)
def test_license_is_read_from_the_front_matter_alone(tmp_path, text, expected):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_license(tmp_path / "README.md") == expected


def test_custom_code_is_refused(tmp_path):
    folder = model_folder(tmp_path, config={"auto_map": {"AutoModelForCausalLM": "modeling.Model"}})
    (folder / "modeling.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(InvalidInputError, match="own program code"):
        inspect_folder(folder, tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    folder = model_folder(tmp_path, weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InvalidInputError, match="pickle files, which can run code"):
        inspect_folder(folder, tmp_path)


def test_adapter_in_the_folder_is_refused_because_transformers_would_follow_it(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc"}))
    with pytest.raises(InvalidInputError, match="an adapter"):
        inspect_folder(folder, tmp_path)


def test_config_that_names_other_weights_is_refused(tmp_path):
    folder = model_folder(tmp_path, config={"transformers_weights": "../other/model.safetensors"})
    with pytest.raises(InvalidInputError, match="transformers_weights"):
        inspect_folder(folder, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(tmp_path, name):
    folder = model_folder(tmp_path)
    (folder / name).unlink()
    with pytest.raises(InvalidInputError, match=f"{name} is missing"):
        inspect_folder(folder, tmp_path)


def test_missing_shard_is_named(tmp_path):
    folder = sharded_folder(tmp_path, WHOLE_MAP)
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"model-2-of-2.safetensors is missing"):
        inspect_folder(folder, tmp_path)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "weights.bin", "a\nb.safetensors", ""])
def test_index_may_only_name_safetensors_of_its_own_folder(tmp_path, name):
    folder = sharded_folder(tmp_path, {"embed": name})
    with pytest.raises(InvalidInputError, match="expected safetensors files of the same folder"):
        inspect_folder(folder, tmp_path)


@pytest.mark.parametrize(
    "weight_map", [None, [], {}, {f"t{number}": f"{number}.safetensors" for number in range(1001)}]
)
def test_index_without_a_usable_map_is_refused(tmp_path, weight_map):
    with pytest.raises(InvalidInputError, match="expected 1 to 1000"):
        inspect_folder(sharded_folder(tmp_path, weight_map), tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path):
    folder = sharded_folder(tmp_path, WHOLE_MAP)
    save_file({"embed": np.ones(1, np.float32)}, folder / "model-2-of-2.safetensors")
    with pytest.raises(InvalidInputError, match="stored twice"):
        inspect_folder(folder, tmp_path)


def test_link_out_of_the_models_folder_is_refused(tmp_path):
    outside = model_folder(tmp_path / "elsewhere")
    root = tmp_path / "models"
    root.mkdir()
    os.symlink(outside, root / "linked")
    with pytest.raises(InvalidInputError, match="'linked' is a link that leads out"):
        inspect_folder(root / "linked", root)


def test_linked_file_out_of_the_models_folder_is_refused(tmp_path):
    root = tmp_path / "models"
    folder = model_folder(root)
    os.symlink("/etc/passwd", folder / "README.md")
    with pytest.raises(InvalidInputError, match=r"'README.md' is a link that leads out"):
        inspect_folder(folder, root)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ud800"])
def test_config_that_cannot_be_read_is_refused(tmp_path, text):
    folder = model_folder(tmp_path)
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InvalidInputError, match=r"config.json is no readable JSON object"):
        inspect_folder(folder, tmp_path)


def test_config_over_its_cap_is_refused(tmp_path):
    folder = model_folder(tmp_path, config={"note": "x" * 1_000_001})
    with pytest.raises(InvalidInputError, match="expected at most 1,000,000"):
        inspect_folder(folder, tmp_path)


def with_header(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        struct.pack("<Q", 2**63),
        with_header(b"not json"),
        with_header(b"[" * 200_000),
        with_header({"a": ENTRY}, b"\0" * 7),
        with_header({"a": ENTRY}, b"\0" * 9),
        with_header({"a": {**ENTRY, "dtype": "PICKLE"}}, b"\0" * 8),
        with_header({"a": {**ENTRY, "shape": [-2]}}, b"\0" * 8),
        with_header({"a": {**ENTRY, "shape": [2**40, 2**40]}}, b"\0" * 8),
        with_header({"a": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8),
        with_header({"a": {**ENTRY, "data_offsets": [0]}}, b"\0" * 8),
        with_header({"a": 7}, b"\0" * 8),
    ],
)
def test_damaged_weights_are_refused(tmp_path, raw):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(InvalidInputError, match=r"model.safetensors cannot be used"):
        inspect_folder(folder, tmp_path)


def test_header_over_its_cap_is_refused_before_it_is_read(tmp_path):
    folder = model_folder(tmp_path)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 50_000_000))
        file.truncate(60_000_000)
    with pytest.raises(InvalidInputError, match="claims 50,000,000 bytes"):
        inspect_folder(folder, tmp_path)


def test_weights_without_tensors_are_refused(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(with_header({}))
    with pytest.raises(InvalidInputError, match="no tensors"):
        inspect_folder(folder, tmp_path)
