"""The fingerprint of a base model: the same for the same weights, whatever files they lie in."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

from storage.bases.fingerprint import fingerprint

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(4, np.float16),
    "c": np.zeros((2, 2), np.float32),
}


def whole(folder, tensors=TENSORS):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def in_shards(folder, names):
    folder.mkdir()
    weight_map = {}
    for number, group in enumerate(names):
        save_file({name: TENSORS[name] for name in group}, folder / f"{number}.safetensors")
        weight_map |= dict.fromkeys(group, f"{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_fingerprint_does_not_depend_on_sharding(tmp_path):
    expected = fingerprint(whole(tmp_path / "whole"))
    assert len(expected) == 64
    assert fingerprint(in_shards(tmp_path / "two", [["c", "a"], ["b"]])) == expected
    assert fingerprint(in_shards(tmp_path / "three", [["b"], ["c"], ["a"]])) == expected


def test_fingerprint_changes_with_a_byte_a_name_a_format_or_a_shape(tmp_path):
    changed = {
        "byte": {**TENSORS, "c": np.full((2, 2), 1e-9, np.float32)},
        "name": {"a": TENSORS["a"], "b": TENSORS["b"], "d": TENSORS["c"]},
        "format": {**TENSORS, "c": np.zeros((2, 2), np.int32)},
        "shape": {**TENSORS, "c": np.zeros(4, np.float32)},
    }
    found = {fingerprint(whole(tmp_path / name, tensors)) for name, tensors in changed.items()}
    assert len(found) == 4
    assert fingerprint(whole(tmp_path / "same")) not in found


def test_fingerprint_is_remembered_until_the_files_change(tmp_path):
    folder, cache = whole(tmp_path / "base"), tmp_path / "home" / "fingerprints.json"
    expected = fingerprint(folder, cache)
    remembered = json.loads(cache.read_text())
    remembered[str(folder.resolve())]["fingerprint"] = "remembered"
    cache.write_text(json.dumps(remembered))
    assert fingerprint(folder, cache) == "remembered"
    stat = (folder / "model.safetensors").stat()
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fingerprint(folder, cache) == expected


def test_fingerprint_does_without_a_cache_that_cannot_be_read(tmp_path):
    folder, cache = whole(tmp_path / "base"), tmp_path / "fingerprints.json"
    cache.write_text("{not json")
    assert fingerprint(folder, cache) == fingerprint(folder)
    assert json.loads(cache.read_text())[str(folder.resolve())]["fingerprint"] == fingerprint(folder)
