"""A prefix on disk: what is written comes back, and nothing malformed gets in."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from worker.engine.errors import InvalidPrefixFileError
from worker.engine.families import Geometry
from worker.engine.prefix_file import (
    CONFIG_NAME,
    TENSOR,
    TENSORS_NAME,
    PrefixArray,
    prefix_bytes,
    read_peft_folder,
    read_prefix_file,
    write_peft_folder,
    write_prefix_file,
)

GEOMETRY = Geometry(3, 2, 4, 16, 100, 128, False, 4, 32)
WIDTH = 3 * 2 * 2 * 4


def random_prefix(num_virtual_tokens=5):
    values = np.random.default_rng(0).normal(size=(3, 2, 2, num_virtual_tokens, 4)).astype(np.float32)
    return PrefixArray.of("prefix-tuning", values)


def folder_with(tmp_path, tensors=None, config=None, raw=None):
    write_peft_folder(tmp_path, random_prefix(), GEOMETRY, base_model="a/b")
    if tensors is not None:
        save_file(tensors, tmp_path / TENSORS_NAME)
    if raw is not None:
        (tmp_path / TENSORS_NAME).write_bytes(raw)
    if config is not None:
        written = json.loads((tmp_path / CONFIG_NAME).read_text())
        (tmp_path / CONFIG_NAME).write_text(json.dumps({**written, **config}))
    return tmp_path


def with_header(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def test_prefix_folder_comes_back_as_it_was_written(tmp_path):
    prefix = random_prefix()
    write_peft_folder(tmp_path / "new", prefix, GEOMETRY, base_model="a/b", revision="c0ffee")
    again = read_peft_folder(tmp_path / "new", GEOMETRY)
    assert (again.method, again.num_virtual_tokens) == ("prefix-tuning", 5)
    np.testing.assert_array_equal(again.values, prefix.values)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [CONFIG_NAME, TENSORS_NAME]


def test_rounded_file_has_half_the_bytes_and_nearly_the_numbers(tmp_path):
    prefix, path = random_prefix(), tmp_path / TENSORS_NAME
    path.write_bytes(prefix_bytes(prefix, is_rounded=True))
    assert path.stat().st_size < 0.6 * len(prefix_bytes(prefix))
    again = read_prefix_file(path, "prefix-tuning", GEOMETRY)
    np.testing.assert_allclose(again.values, prefix.values, rtol=2**-11, atol=2**-24)


def test_numbers_too_large_for_fp16_are_not_rounded(tmp_path):
    prefix, path = random_prefix(), tmp_path / TENSORS_NAME
    prefix.values[0, 0, 0, 0, 0] = 70_000.0
    path.write_bytes(prefix_bytes(prefix, is_rounded=True))
    np.testing.assert_array_equal(read_prefix_file(path, "prefix-tuning", GEOMETRY).values, prefix.values)


def test_prompt_folder_comes_back_as_it_was_written(tmp_path):
    prefix = PrefixArray.of("prompt-tuning", np.arange(48, dtype=np.float32).reshape(3, 16))
    write_peft_folder(tmp_path, prefix, GEOMETRY, base_model="a/b")
    again = read_peft_folder(tmp_path, GEOMETRY)
    assert again.num_virtual_tokens == 3
    np.testing.assert_array_equal(again.values, prefix.values)
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["token_dim"] == 16


def test_prefix_table_puts_a_token_in_each_row_and_keys_before_values(tmp_path):
    from safetensors.numpy import load_file

    prefix = random_prefix()
    write_prefix_file(tmp_path / TENSORS_NAME, prefix)
    table = load_file(tmp_path / TENSORS_NAME)[TENSOR]
    assert table.shape == (5, WIDTH)
    np.testing.assert_array_equal(table[2].reshape(3, 2, 2, 4), prefix.values[:, :, :, 2])


def test_adapter_config_says_what_peft_needs(tmp_path):
    config = json.loads((folder_with(tmp_path) / CONFIG_NAME).read_text())
    assert config["peft_type"] == "PREFIX_TUNING"
    assert config["task_type"] == "CAUSAL_LM"
    assert (config["token_dim"], config["num_attention_heads"], config["num_layers"]) == (8, 2, 3)
    assert config["prefix_projection"] is False
    assert config["inference_mode"] is True


def test_half_precision_is_widened_on_reading(tmp_path):
    table = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    save_file({TENSOR: table.astype(np.float16)}, tmp_path / "f16")
    halves = read_prefix_file(tmp_path / "f16", "prefix-tuning", GEOMETRY).values
    assert halves.dtype == np.float32
    bits = (table.view(np.uint32) >> 16).astype("<u2").tobytes()
    entry = {"dtype": "BF16", "shape": [2, WIDTH], "data_offsets": [0, len(bits)]}
    (tmp_path / "bf16").write_bytes(with_header({TENSOR: entry}, bits))
    brains = read_prefix_file(tmp_path / "bf16", "prefix-tuning", GEOMETRY).values
    np.testing.assert_allclose(brains, halves, rtol=2**-7)


def test_prefix_file_refuses_other_names(tmp_path):
    folder = folder_with(tmp_path, {"base_model.model.lora_A": np.zeros((5, WIDTH), np.float32)})
    with pytest.raises(InvalidPrefixFileError, match=r"holds 'base_model.model.lora_A'; expected 'prompt_embeddings'"):
        read_peft_folder(folder, GEOMETRY)


def test_prefix_file_refuses_a_second_tensor(tmp_path):
    folder = folder_with(tmp_path, {TENSOR: np.zeros((5, WIDTH), np.float32), "x": np.zeros(1, np.float32)})
    with pytest.raises(InvalidPrefixFileError, match="expected 'prompt_embeddings' alone"):
        read_peft_folder(folder, GEOMETRY)


def test_prefix_file_refuses_many_tensors(tmp_path):
    folder = folder_with(tmp_path, {f"t{number}": np.zeros(1, np.float32) for number in range(300)})
    with pytest.raises(InvalidPrefixFileError, match="300 tensors"):
        read_peft_folder(folder, GEOMETRY)


@pytest.mark.parametrize("shape", [(5, WIDTH + 1), (5, WIDTH, 1), (4097, WIDTH), (WIDTH,), (0, WIDTH)])
def test_prefix_file_refuses_a_shape_that_does_not_fit_the_base(tmp_path, shape):
    folder = folder_with(tmp_path, {TENSOR: np.zeros(shape, np.float16)})
    with pytest.raises(InvalidPrefixFileError, match="has the shape"):
        read_peft_folder(folder, GEOMETRY)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8])
def test_prefix_file_refuses_other_number_formats(tmp_path, dtype):
    folder = folder_with(tmp_path, {TENSOR: np.zeros((5, WIDTH), dtype)})
    with pytest.raises(InvalidPrefixFileError, match="number format"):
        read_peft_folder(folder, GEOMETRY)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_prefix_file_refuses_numbers_that_are_not_finite(tmp_path, bad):
    table = np.zeros((5, WIDTH), np.float32)
    table[3, 7] = bad
    with pytest.raises(InvalidPrefixFileError, match="not finite"):
        read_peft_folder(folder_with(tmp_path, {TENSOR: table}), GEOMETRY)


def test_prefix_file_refuses_a_large_header(tmp_path):
    data = save({TENSOR: np.zeros((5, WIDTH), np.float32)}, metadata={"note": "x" * 2_000_000})
    with pytest.raises(InvalidPrefixFileError, match=r"header|more than a prefix"):
        read_peft_folder(folder_with(tmp_path, raw=data), GEOMETRY)


ENTRY = {"dtype": "F32", "shape": [1, WIDTH], "data_offsets": [0, 4 * WIDTH]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 50) + b"{}",
        with_header(b"not json"),
        with_header(b"\xff\xfe"),
        with_header(b"[1, 2]"),
        with_header(b"[" * 200_000),
        with_header({TENSOR: 7}),
        with_header({TENSOR: {**ENTRY, "shape": [True, WIDTH]}}, b"\0" * 4 * WIDTH),
        with_header({TENSOR: {**ENTRY, "shape": [-1, WIDTH]}}, b"\0" * 4 * WIDTH),
        with_header({TENSOR: {**ENTRY, "dtype": ["F32"]}}, b"\0" * 4 * WIDTH),
        with_header({TENSOR: {**ENTRY, "data_offsets": [4, 4 * WIDTH + 4]}}, b"\0" * (4 * WIDTH + 4)),
        with_header({TENSOR: ENTRY}, b"\0" * (4 * WIDTH - 1)),
        with_header({TENSOR: ENTRY}, b"\0" * (4 * WIDTH + 1)),
    ],
)
def test_prefix_file_refuses_what_is_malformed(tmp_path, raw):
    with pytest.raises(InvalidPrefixFileError):
        read_peft_folder(folder_with(tmp_path, raw=raw), GEOMETRY)


def test_prefix_file_refuses_one_too_large_before_reading_it(tmp_path):
    path = folder_with(tmp_path) / TENSORS_NAME
    with path.open("r+b") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(InvalidPrefixFileError, match="10,000,000,000 bytes"):
        read_peft_folder(tmp_path, GEOMETRY)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"peft_type": "LORA"}, "adapter of type 'LORA'"),
        ({"peft_type": None}, "adapter of type 'None'"),
        ({"peft_type": ["PREFIX_TUNING"]}, "adapter of type"),
        ({"task_type": None}, "task_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"num_virtual_tokens": 6}, "says 6 virtual tokens, but the tensor has 5"),
        ({"num_virtual_tokens": "5"}, "num_virtual_tokens is '5'"),
        ({"num_virtual_tokens": 10**9}, "expected 1 to 4096"),
    ],
)
def test_adapter_config_of_another_kind_is_refused(tmp_path, config, match):
    with pytest.raises(InvalidPrefixFileError, match=match):
        read_peft_folder(folder_with(tmp_path, config=config), GEOMETRY)


def test_adapter_config_names_no_file_that_is_followed(tmp_path):
    folder = folder_with(tmp_path, config={"base_model_name_or_path": "/etc/passwd", "auto_mapping": {"x": "y"}})
    assert read_peft_folder(folder, GEOMETRY).num_virtual_tokens == 5


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME])
def test_missing_file_is_named(tmp_path, name):
    (folder_with(tmp_path) / name).unlink()
    with pytest.raises(InvalidPrefixFileError, match=f"{name} is missing"):
        read_peft_folder(tmp_path, GEOMETRY)


def test_adapter_config_over_its_cap_is_refused(tmp_path):
    with pytest.raises(InvalidPrefixFileError, match="expected under 100,000"):
        read_peft_folder(folder_with(tmp_path, config={"note": "x" * 200_000}), GEOMETRY)
