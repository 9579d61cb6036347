"""Prefixes on a tiny base: rows with their files, as a training would leave them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.context import AppContext
from app.services.base_models import require_ready
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.prefixes import create_prefix
from storage.schema.prefix import Prefix
from storage.settings import Settings
from tests.tiny import tiny_base_folder
from worker.engine.families import COLUMNS_PER_TOKEN, Geometry, geometry
from worker.engine.prefix_file import PrefixArray, write_prefix_file
from worker.engine.recipe import Method

TEMPLATE = "name: {name}, kind: {kind of food}. {{note}} "
RENDERING: dict[str, Any] = {
    "kind": "plain",
    "template": TEMPLATE,
    "target": "text",
    "instruction": "Say where to eat.",
    "few_shot_seed": 0,
}
SAMPLES = [{"prompt": "name: Blue Spice", "expected": "PRIVATE ROW", "base": "no", "prefix": "yes"}]
METRICS = {"base_loss": 3.25, "instruction_loss": 3.0, "validation_loss": 1.5, "dtype": "float32", "num_steps": 40}
NUM_VIRTUAL_TOKENS = 5


def tiny_context(
    settings: Settings,
    database: Database,
    store: ArtifactStore,
    models: Path,
    family: str = "llama",
    chat: bool = False,
) -> AppContext:
    """A context whose folder of models holds one tiny base, called `tiny`."""
    tiny_base_folder(models / "tiny", family, chat=chat)
    return AppContext(replace(settings, models=models), database, store)


def random_array(measured: Geometry, method: Method = "prefix-tuning", seed: int = 0) -> PrefixArray:
    """Numbers about as large as real keys and values, or input vectors."""
    columns = NUM_VIRTUAL_TOKENS * COLUMNS_PER_TOKEN[method]
    shape: tuple[int, ...] = (measured.num_attentions, 2, measured.num_kv_heads, columns, measured.head_dim)
    if method == "prompt-tuning":
        shape = (NUM_VIRTUAL_TOKENS, measured.hidden_size)
    values = np.random.default_rng(seed).normal(scale=0.5, size=shape).astype(np.float32)
    return PrefixArray.of(method, values)


def add_prefix(context: AppContext, tmp_path: Path, name: str = "Where to eat", **changes: Any) -> Prefix:
    """A prefix of the base `tiny` with its file in the store."""
    base = require_ready(context, "tiny")
    method: Method = changes.get("method", "prefix-tuning")
    array = random_array(geometry(base.config or {}), method)
    path = tmp_path / "numbers.safetensors"
    write_prefix_file(path, array)
    fields: dict[str, Any] = {
        "base_model_id": base.id,
        "base_model": base.name,
        "base_revision": None,
        "base_fingerprint": base.fingerprint,
        "method": method,
        "num_virtual_tokens": NUM_VIRTUAL_TOKENS,
        "num_parameters": array.values.size,
        "size_bytes": path.stat().st_size,
        "rendering": RENDERING,
        "recipe": {"method": method, "seed": 0},
        "metrics": METRICS,
        "samples": SAMPLES,
        "artifact_hash": context.store.put_file(path),
        **changes,
    }
    with context.database.write() as session:
        return create_prefix(session, name, fields)
