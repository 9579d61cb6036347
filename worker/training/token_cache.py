"""Token ids of a table's rows, kept by content: a resume and a second job on the same rows need not encode again.

Files in a folder of the home, safe to delete at any time.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from storage.cache import note_use, trim_cache
from storage.stored_rows import Row
from worker.engine import chat_template, conversations, tokens, training_rows
from worker.engine import rendering as rendering_module
from worker.engine.base import LoadedBase
from worker.engine.example import Example
from worker.engine.rendering import Rendering

logger = logging.getLogger(__name__)

MIN_ROWS = 10_000
"""Fewer rows are encoded in about a second (8,500 a second were measured), which is not worth a file."""

ENCODERS = (chat_template, conversations, rendering_module, tokens, training_rows)
"""Where code stands that token ids depend on: a file that older code wrote must not be read."""

BATCH_ROWS = 1_000


def examples_of(
    folder: Path | None,
    base: LoadedBase,
    rendering: Rendering,
    rows: Sequence[Row],
    encode: Callable[[], Iterable[Example]],
) -> list[Example]:
    """The rows as token ids, from the folder where they lie there.

    Args:
        folder: Where files are kept; made when needed. None keeps nothing.
        base: Of which the tokenizer encodes.
        rendering: With its kind decided.
        rows: All of them count for the content.
        encode: Encodes them; called where nothing is kept.

    Raises:
        EngineError: What `encode` raises.
    """
    if folder is None or len(rows) < MIN_ROWS or not hasattr(base.tokenizer, "backend_tokenizer"):
        return list(encode())
    path = folder / f"{content_key(base, rendering, rows)}.arrow"
    kept = _read(path)
    if kept is not None:
        return kept
    examples = list(encode())
    # A full disk must not end a training that could go on without the file.
    with contextlib.suppress(OSError):
        _write(path, examples)
        trim_cache(folder)
    return examples


def content_key(base: LoadedBase, rendering: Rendering, rows: Iterable[Row]) -> str:
    """SHA-256 of everything that token ids depend on, the code that makes them included."""
    tokenizer = base.tokenizer
    digest = hashlib.sha256()
    about = [type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map, rendering.to_dict()]
    digest.update(json.dumps([*about, base.geometry.has_encoder], sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for module in ENCODERS:
        digest.update(inspect.getsource(module).encode())
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _write(path: Path, examples: Sequence[Example]) -> None:
    # Imported here, because only tables that are large wait for it.
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    ids = List(Value("int32"))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    features = Features({"prompt_ids": ids, "target_ids": ids})
    with os.fdopen(handle, "wb") as file, ArrowWriter(stream=file, features=features) as writer:
        for example in examples:
            writer.write({"prompt_ids": list(example.prompt_ids), "target_ids": list(example.target_ids)})
        writer.finalize()
    Path(name).replace(path)


def _read(path: Path) -> list[Example] | None:
    if not path.is_file():
        return None
    from datasets import Dataset

    try:
        # Mapped into memory, and turned into numbers a batch at a time.
        kept = Dataset.from_file(str(path))
        examples = [
            Example(tuple(prompt), tuple(target))
            for batch in kept.iter(BATCH_ROWS)
            for prompt, target in zip(batch["prompt_ids"], batch["target_ids"], strict=True)
        ]
    except (OSError, ValueError, KeyError):
        logger.warning("the kept token ids in %s cannot be read; encoding again", path.name)
        return None
    with contextlib.suppress(OSError):
        note_use(path)
    return examples
