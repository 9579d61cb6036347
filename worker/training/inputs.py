"""Everything that a training needs, read and encoded: the base, the rows as token ids, the settings."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage.artifacts import ArtifactStore
from storage.base_models import get_base_model_by_id, set_fingerprint
from storage.bases.catalog import fingerprint_cache
from storage.bases.fingerprint import fingerprint
from storage.database import Database
from storage.datasets import get_version
from storage.errors import ConflictError
from storage.jobs import get_job
from storage.rows import load_parts
from storage.schema.base_model import BaseModel
from storage.schema.job import Job
from storage.settings import Settings
from storage.stored_rows import Row, StoredRows
from worker.engine.automatic import resolve
from worker.engine.base import LoadedBase, load_base
from worker.engine.chat_template import ChatTemplateError
from worker.engine.conversations import ConversationError
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.rendering import Rendering
from worker.engine.tokens import (
    Context,
    choose_rendering_kind,
    draw_few_shot,
    encode_prompt,
    initialisation_ids,
    render_row,
)
from worker.engine.training import MAX_VALIDATION_ROWS
from worker.engine.training_rows import encode_row
from worker.training.token_cache import examples_of


@dataclass(frozen=True)
class Task:
    """What the database says about a job.

    Attributes:
        job: Its row.
        base_model: The row of its base model, with a fingerprint.
        folder: Where the base model lies.
        train_rows: Rows to learn from.
        validation_rows: Held-out rows that choose the best state.
        test_rows: Held-out rows that nothing is chosen by; empty where the dataset has no such part.
        fingerprint: Of the base model's weights as they lie in the folder now.
    """

    job: Job
    base_model: BaseModel
    folder: Path
    train_rows: Sequence[Row]
    validation_rows: Sequence[Row]
    test_rows: Sequence[Row]
    fingerprint: str


@dataclass(frozen=True)
class Inputs:
    """What the engine is given.

    Attributes:
        recipe: With every field set.
        rendering: With its kind decided.
        train: Rows to learn from.
        validation: Held-out rows, no longer than the context.
        validation_rows: The same rows as text.
        instructed: The same rows with the written instruction in front; empty where there is none.
        shown: The same rows with few-shot examples in front.
        init_ids: The text that the prefix starts from.
        left_out_validation: Held-out rows that are longer than the context.
    """

    recipe: Recipe
    rendering: Rendering
    train: list[Example]
    validation: list[Example]
    validation_rows: list[Row]
    instructed: list[Example]
    shown: list[Example]
    init_ids: list[int]
    left_out_validation: int


def read_task(settings: Settings, database: Database, store: ArtifactStore, job_id: str) -> Task:
    """Reads a job, its rows and its base model.

    Raises:
        StudioError: Something that it needs is gone.
    """
    with database.read() as session:
        job = get_job(session, job_id)
        if job.dataset_version_id is None:
            raise ConflictError(f"The dataset of {job.name!r} was deleted. Upload it again and start a new job.")
        version = get_version(session, job.dataset_version_id)
        base_model = get_base_model_by_id(session, job.base_model_id)
    if base_model.path is None or not Path(base_model.path).is_dir():
        raise ConflictError(
            f"The base model {base_model.name} is no longer on this machine. Download it again, then retry the job."
        )
    # From the cache, unless the weights have been replaced since they were last looked at.
    found = fingerprint(Path(base_model.path), fingerprint_cache(settings))
    if found != base_model.fingerprint:
        with database.write() as session:
            set_fingerprint(session, base_model.id, found)
        base_model.fingerprint = found
    parts = load_parts(store, version)
    return Task(job, base_model, Path(base_model.path), parts.train, parts.validation, parts.test, found)


def load_task_base(task: Task) -> LoadedBase:
    """Loads the base model in the number format that the recipe asks for.

    Raises:
        EngineError: It cannot take a prefix.
    """
    return load_base(task.folder, dtype=Recipe.from_dict(task.job.recipe).precision)


def encode(task: Task, base: LoadedBase, token_cache: Path | None = None) -> Inputs:
    """Turns the rows of a task into token ids.

    Args:
        task: With its rows as text.
        base: Whose tokenizer encodes them.
        token_cache: Folder in which ids of large tables are kept by content.

    Raises:
        EngineError: The recipe, the template or the chat template refuses them.
    """
    rendering = _rendering(task.job.rendering, base)
    recipe = resolve(
        Recipe.from_dict(task.job.recipe),
        num_train=len(task.train_rows),
        instruction_tokens=len(base.tokenizer(rendering.instruction).input_ids),
        geometry=base.geometry,
        num_base_parameters=base.num_parameters,
        on_gpu=base.device.type == "cuda",
    )
    length = recipe.num_virtual_tokens or 0
    encoded = list(_encoded(task.validation_rows, base, rendering))
    fits = base.geometry.fits
    fitting = [pair for pair in encoded if fits(len(pair[1].prompt_ids), len(pair[1].target_ids), length)]
    chosen = _draw(fitting, recipe.seed)
    return Inputs(
        recipe=recipe,
        rendering=rendering,
        train=examples_of(
            token_cache,
            base,
            rendering,
            task.train_rows,
            lambda: (example for _, example in _encoded(task.train_rows, base, rendering)),
        ),
        validation=[example for _, example in chosen],
        validation_rows=[row for row, _ in chosen],
        instructed=_in_context(base, rendering, chosen, "instruction") if rendering.instruction else [],
        shown=_in_context(base, rendering, chosen, "few-shot", draw_few_shot(rendering, task.train_rows)),
        init_ids=_init_ids(task, base, recipe, rendering),
        left_out_validation=len(encoded) - len(fitting),
    )


def _encoded(rows: Sequence[Row], base: LoadedBase, rendering: Rendering) -> Iterator[tuple[Row, Example]]:
    """What is learnt from the rows, each with the row that it is encoded from; conversations give one for each answer.

    Raises:
        EngineError: A row is refused; the sentence begins with its number in its file.
    """
    for place, row in enumerate(rows):
        try:
            yield from encode_row(base.tokenizer, rendering, row, has_encoder=base.geometry.has_encoder)
        except (ChatTemplateError, ConversationError) as error:
            number = rows.number(place) if isinstance(rows, StoredRows) else place + 1
            raise type(error)(f"Row {number:,}: {error.message}") from error


def _rendering(stored: dict[str, Any], base: LoadedBase) -> Rendering:
    kind = choose_rendering_kind(base.tokenizer, stored["kind"])
    return replace(Rendering.from_dict(stored), kind=kind)


def _draw(pairs: Sequence[tuple[Row, Example]], seed: int) -> list[tuple[Row, Example]]:
    if len(pairs) <= MAX_VALIDATION_ROWS:
        return list(pairs)
    chosen = sorted(random.Random(seed).sample(range(len(pairs)), MAX_VALIDATION_ROWS))
    return [pairs[index] for index in chosen]


def _in_context(
    base: LoadedBase,
    rendering: Rendering,
    pairs: Sequence[tuple[Row, Example]],
    context: Context,
    few_shot: Sequence[tuple[str, str]] = (),
) -> list[Example]:
    """The baselines that a person gets by writing an instruction or examples in front of every prompt."""
    return [
        Example(
            prompt_ids=tuple(
                encode_prompt(
                    base.tokenizer, rendering, render_row(rendering, row)[0], context=context, few_shot=few_shot
                )
            ),
            target_ids=example.target_ids,
        )
        for row, example in pairs
    ]


def _init_ids(task: Task, base: LoadedBase, recipe: Recipe, rendering: Rendering) -> list[int]:
    if recipe.init == "random":
        return []
    # Files often begin with rows that are alike; rows from all over say more about the task.
    length = recipe.num_virtual_tokens or 0
    rows = random.Random(recipe.seed).sample(task.train_rows, min(length, len(task.train_rows)))
    return initialisation_ids(base.tokenizer, rendering, rows, length, has_encoder=base.geometry.has_encoder)
