"""The samples of the starter's card: what the command prints comes from the model and its seeds alone."""

from pathlib import Path

import pytest

from tests.tiny import tiny_base_folder
from worker.engine.base import load_base
from worker.starter.sample import BEGINNINGS, CHAT, main, write


def test_samples_are_the_same_each_time_and_differ_by_seed(tmp_path: Path) -> None:
    base = load_base(tiny_base_folder(tmp_path / "tiny"), device="cpu", dtype="float32")
    first, second = write(base, ["Once", "Once"], "plain")
    assert [first, second] == write(base, ["Once", "Once"], "plain")
    assert first != second


def test_command_prints_every_beginning_with_what_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tiny_base_folder(tmp_path / "tiny", chat=True))])
    printed = capsys.readouterr().out
    assert all(f"[{beginning}]" in printed for beginning in (*BEGINNINGS, *CHAT))
