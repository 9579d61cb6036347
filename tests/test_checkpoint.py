"""Checkpoints: read back as written, refused when a single byte has changed."""

import os
from pathlib import Path

import pytest
import torch

from worker.engine.checkpoint import (
    DamagedCheckpointError,
    TrainingState,
    read_checkpoint,
    write_checkpoint,
)
from worker.engine.progress import Candidate, EvaluationPoint, Progress, SlotProgress, StepPoint
from worker.engine.recipe import Recipe

SLOT = SlotProgress(
    rate=0.1 / 3,
    best_step=4,
    best_loss=0.1 + 0.2,
    latest_loss=0.5,
    bad_evaluations=1,
    num_divergences=1,
    steps=(StepPoint(1, 2.5, 0.01, 0.3),),
    evaluations=(EvaluationPoint(0, 2.5, True),),
)
STATE = TrainingState(
    {
        "0.parameters.keys": torch.randn(1, 3, 4),
        "0.best_numbers": torch.zeros(1, 3, 4),
        "0.moments.0.step": torch.tensor(7.0),
        "1.best_numbers": torch.ones(1, 3, 4),
    },
    Progress(
        step=7,
        base_loss=None,
        evaluated_step=4,
        num_examples=56,
        micro_batch_size=8,
        is_checkpointing=False,
        num_train=20,
        recipe=Recipe(learning_rate=1e-1 / 3, sweep=(0.1, 0.2)).to_dict(),
        slots=(SLOT, SLOT),
        lead=1,
        dropped=(Candidate(0.3, None, 5, "dropped"),),
        base_fingerprint="0" * 64,
    ),
)


def test_checkpoint_is_read_back_exactly(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "state", STATE)
    read = read_checkpoint(tmp_path / "state")
    assert read.progress == STATE.progress
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in STATE.tensors.items())
    assert torch.equal(read.best_numbers, torch.ones(1, 3, 4))
    assert sorted(read.slot_tensors(0)) == ["best_numbers", "moments.0.step", "parameters.keys"]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_checkpoint(path, STATE)
    whole = path.read_bytes()
    for position in [*range(8, len(whole), 97), len(whole) - 1]:
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DamagedCheckpointError, match="use an older one"):
            read_checkpoint(path)


def test_checkpoint_of_an_earlier_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("worker.engine.checkpoint.FORMAT_VERSION", 2)
        write_checkpoint(tmp_path / "state", STATE)
    with pytest.raises(DamagedCheckpointError, match="has format 2, expected 3; use an older one"):
        read_checkpoint(tmp_path / "state")


def test_cut_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        read_checkpoint(path)
    write_checkpoint(path, STATE)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the names of open files are read from /proc")
def test_bytes_of_a_checkpoint_are_synced_before_its_name_and_that_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_checkpoint(tmp_path / "state", STATE)
    unfinished = f".state.{os.getpid()}.tmp"
    assert done == [f"sync {unfinished}", f"rename {unfinished}", f"sync {tmp_path.name}"]


def test_failed_write_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_checkpoint(path, STATE)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.engine.whole_file.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(path, STATE)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
