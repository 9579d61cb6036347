"""How long the rows of a dataset are in the tokens of a base model, and which of them do not fit into its context."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from app.context import AppContext
from app.services import base_models
from app.services.dataset_order import work_folder
from storage.datasets import get_dataset
from storage.doctor.finding import Finding, counted, finding
from storage.doctor.repairs import repair
from storage.errors import InvalidInputError, TooLargeError
from storage.rows import stored_path
from worker.engine.conversations import is_conversation
from worker.engine.families import Geometry, geometry

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 180.0
MEMORY_BYTES = 3 << 30
POLL_S = 0.05
MAX_CASES = 3
MAX_PREFIX_SHARE = 2
"""A prefix takes half of the context at most, so rows of less than the other half always fit."""


def measure(context: AppContext, dataset_id: str, base_model: str) -> dict[str, Any]:
    """Counts the tokens of a dataset's rows for a base model, in a process of its own.

    Args:
        context: The open stores.
        dataset_id: The dataset, in its latest version.
        base_model: Name of a base model that is on this machine.

    Returns:
        What `worker.row_lengths.measure` returns, with `version_id`, `base_model` and `context_length`.

    Raises:
        StudioError: One of them is missing, or the rows cannot be counted.
    """
    with context.database.read() as session:
        _, version = get_dataset(session, dataset_id)
    base = base_models.require_ready(context, base_model)
    measured = geometry(base.config or {})
    request = {
        "tokenizer": base.path,
        "paths": {part: str(stored_path(context.store, sha256)) for part, sha256 in version.blobs.items()},
        "rendering": _rendering(version.mapping),
        "has_encoder": measured.has_encoder,
        "room": measured.context_length // MAX_PREFIX_SHARE,
    }
    told = run_child(request, work_folder(context))
    return {
        **told,
        "version_id": version.id,
        "base_model": base_model,
        "context_length": measured.context_length,
        "base_config": base.config or {},
    }


def too_long(measured: Mapping[str, Any], num_virtual_tokens: int) -> list[Finding]:
    """The finding about rows over the context with a prefix of that length, if there are any.

    Args:
        measured: What `measure` returned.
        num_virtual_tokens: Length of the prefix.
    """
    base = geometry(measured["base_config"])
    over = {
        part: [(number, _excess(base, prompt, target, num_virtual_tokens)) for number, prompt, target in rows]
        for part, rows in measured["long"].items()
    }
    over = {part: [each for each in rows if each[1] > 0] for part, rows in over.items()}
    count = sum(map(len, over.values()))
    if not count:
        return []
    most = max(excess for rows in over.values() for _, excess in rows)
    part = next(part for part, rows in over.items() if rows)
    room = room_of(measured, num_virtual_tokens)
    at_least = "" if measured["is_whole"] else "At least "
    message = (
        f"{at_least}{counted(count, 'row is', 'rows are')} longer than the {room:,} tokens that the context of "
        f"{measured['base_model']} leaves beside the prefix, by up to {most:,}. Training leaves "
        f"{'it' if count == 1 else 'them'} out."
    )
    rows = {part: [number for number, _ in listed] for part, listed in over.items() if listed}
    told = finding(
        "over_context", "warns", message, count, rows[part] if len(rows) == 1 else [], [repair("drop_rows", rows=rows)]
    )
    cases = [
        {"row": number, "cells": {"too long by": f"{excess:,} tokens"}} for number, excess in over[part][:MAX_CASES]
    ]
    return [{**told, "part": part, "cases": cases}]


def room_of(measured: Mapping[str, Any], num_virtual_tokens: int) -> int:
    """Tokens that a row may have beside a prefix of that length; in an encoder-decoder the prefix takes none."""
    base = geometry(measured["base_config"])
    return base.context_length - (0 if base.has_encoder else num_virtual_tokens)


def _rendering(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """How rows become text, as a job on this mapping would have it."""
    kind = "conversation" if is_conversation(mapping) else mapping.get("rendering") or "auto"
    return {"kind": kind, "template": mapping["template"], "target": mapping["target"]}


def _excess(base: Geometry, prompt: int, target: int, num_virtual_tokens: int) -> int:
    """Tokens that a row has too many; 0 where it fits."""
    if base.fits(prompt, target, num_virtual_tokens):
        return 0
    if base.has_encoder:
        return max(1, max(prompt, target) - base.context_length)
    return prompt + target + num_virtual_tokens - base.context_length


def run_child(request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What `worker.row_lengths.measure` returns, from a process of its own.

    Raises:
        InvalidInputError: The base cannot be written so.
        TooLargeError: It takes too much memory or time.
    """
    work = Path(tempfile.mkdtemp(prefix="count-", dir=folder))
    try:
        asked, answer = work / "request.json", work / "result.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        with (work / "errors.txt").open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "worker.row_lengths", str(asked), str(answer)],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                _watch(child)
            finally:
                child.kill()
                child.wait()
        if not answer.exists():
            said = (work / "errors.txt").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"counting tokens ended with {child.returncode}: {said}")
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if "error" in told:
        raise InvalidInputError(told["error"])
    return told


def _watch(child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            is_too_large = process.memory_info().rss > MEMORY_BYTES
        except psutil.NoSuchProcess:
            break
        if is_too_large or time.monotonic() > deadline:
            raise TooLargeError("Counting the tokens takes too much memory or time. The training counts them itself.")
        time.sleep(POLL_S)
    child.wait()
