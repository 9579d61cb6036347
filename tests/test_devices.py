"""What a machine computes on, asked without torch, and that it agrees with what torch will say."""

from pathlib import Path

import pytest
import torch

from worker import devices
from worker.devices import cpu_has_bfloat16, gpus_have_bfloat16, number_format
from worker.engine import base as base_module
from worker.engine.base import choose_dtype


def test_instructions_of_this_processor_are_those_that_torch_finds() -> None:
    assert cpu_has_bfloat16() == base_module.cpu_has_bfloat16()


@pytest.mark.parametrize("flags", ["fpu sse2 avx512_bf16", "fpu amx_bf16 amx_tile"])
def test_processor_with_instructions_for_bfloat16_is_known_by_its_flags(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert cpu_has_bfloat16(path)
    path = tmp_path / "older"
    path.write_text("flags : fpu sse2 avx512f\n")
    assert not cpu_has_bfloat16(path)
    assert not cpu_has_bfloat16(tmp_path / "absent")


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("stored", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("is_fast", [False, True])
def test_format_on_a_cpu_is_foretold_as_the_engine_chooses_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, stored: str | None, is_fast: bool
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: is_fast)
    monkeypatch.setattr(base_module, "cpu_has_bfloat16", lambda: is_fast)
    chosen = choose_dtype(precision, torch.device("cpu"), stored)  # type: ignore[arg-type]
    assert number_format(precision, stored, None) == str(chosen).removeprefix("torch.")


def test_gpus_compute_in_bfloat16_from_capability_8_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_have_bfloat16(lambda fields: [["8.0"], ["9.0"]])
    assert not gpus_have_bfloat16(lambda fields: [["7.5"]])
    assert not gpus_have_bfloat16(lambda fields: [])
    monkeypatch.setattr(devices, "gpus_have_bfloat16", lambda: True)
    assert number_format("auto", "float32", "0") == "bfloat16"
    assert number_format("float32", "bfloat16", "0") == "float32"
