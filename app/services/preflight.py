"""What is checked before a job is accepted, so that no time is spent on one that cannot succeed."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from app.context import AppContext
from app.services import base_models
from storage.datasets import get_dataset, get_version
from storage.errors import ConflictError, InvalidInputError
from storage.names import check_name
from storage.room import require_room
from storage.rows import count_rows
from storage.schema.base_model import BaseModel
from storage.schema.dataset import Dataset, DatasetVersion
from storage.settings import MAX_NAME_CHARACTERS
from worker.devices import MachineMemory, find_devices, number_format
from worker.engine.automatic import resolve
from worker.engine.conversations import is_conversation
from worker.engine.families import Geometry, check_family, check_method, geometry
from worker.engine.memory import (
    BYTES_PER_TOKEN,
    Fit,
    available_memory,
    estimate_disk_bytes,
    estimate_training_bytes,
    fit,
    row_tokens_of,
    workload_of,
)
from worker.engine.quantisation import check_quantisation
from worker.engine.recipe import Recipe

MIN_FREE_BYTES = 200_000_000
"""Beside what a training takes itself, when it is submitted; once its turn has come it takes what is there."""

RENDERINGS = ("auto", "plain", "chat")


@dataclass(frozen=True)
class Plan:
    """A job that may be submitted.

    Attributes:
        name: What it is called.
        dataset: Its dataset.
        version: The version that it trains on.
        base_model: Its base model, on this machine.
        geometry: Measurements of the base.
        wish: The recipe as it was asked for.
        recipe: The same with every field set.
        rendering: How its rows become text; `kind` may be `auto` until the tokenizer is read.
        row_tokens: About how many tokens a row has.
        estimate_bytes: About how much memory the training takes.
        fit: Whether that is free.
    """

    name: str
    dataset: Dataset
    version: DatasetVersion
    base_model: BaseModel
    geometry: Geometry
    wish: Recipe
    recipe: Recipe
    rendering: dict[str, Any]
    row_tokens: int
    estimate_bytes: int
    fit: Fit

    @property
    def num_parameters(self) -> int:
        """Numbers that will be trained."""
        return self.geometry.prefix_parameters(self.recipe.method, _set(self.recipe.num_virtual_tokens))


def plan(context: AppContext, body: dict[str, Any]) -> Plan:
    """Checks everything that can be known before a training starts.

    Args:
        context: The open stores.
        body: `dataset_id`, `base_model`, and if given `method`, `name`, `recipe`, `rendering`; `version_id` where the
            version of the dataset is not to be its latest.

    Raises:
        StudioError: The sentence says what is wrong and what to do.
        EngineError: The same, for the recipe and the kind of model.
    """
    wish = _read_recipe(body)
    dataset, version = _require_dataset(context, body.get("dataset_id"), body.get("version_id"))
    base_model = base_models.require_ready(context, _text(body, "base_model", "Pick a base model."))
    check_family(base_model.config or {})
    measured = geometry(base_model.config or {})
    check_method(measured, wish.method)
    check_quantisation(wish.precision, str((base_model.config or {}).get("model_type")))
    rendering = _rendering(body, version)
    _check_template(base_model, rendering["kind"])
    recipe = _resolve(context, wish, version, base_model, rendering["instruction"])
    _check_length(recipe, measured)
    row_tokens = row_tokens_of(version.size_bytes, version.num_rows)
    estimate_bytes = _estimate_bytes(base_model, measured, recipe, row_tokens)
    planned = Plan(
        name=check_name(str(body.get("name") or "").strip() or default_name(dataset.name)),
        dataset=dataset,
        version=version,
        base_model=base_model,
        geometry=measured,
        wish=wish,
        recipe=recipe,
        rendering=rendering,
        row_tokens=row_tokens,
        estimate_bytes=estimate_bytes,
        fit=fit(estimate_bytes, _free_memory()),
    )
    require_room(context.settings, estimate_disk_bytes(measured, recipe), MIN_FREE_BYTES)
    return planned


def refuse_misfit(planned: Plan) -> None:
    """Refuses a training that needs more memory than is free.

    Raises:
        ConflictError: With both numbers.
    """
    if planned.fit == "will not fit":
        raise ConflictError(
            f"This training needs about {planned.estimate_bytes / 1e9:.1f} GB of memory and "
            f"{_free_memory() / 1e9:.1f} GB are free. Pick a smaller base model, weights in fewer bits, "
            "or lower the rows per step."
        )


def default_name(dataset_name: str) -> str:
    """A name for a job whose user gave none: that of its table, without the ending."""
    return dataset_name.rpartition(".")[0][:MAX_NAME_CHARACTERS].strip() or "Prefix"


def _read_recipe(body: dict[str, Any]) -> Recipe:
    values = body.get("recipe") or {}
    if not isinstance(values, dict):
        raise InvalidInputError("recipe is not an object; expected settings by name, or leave it out.")
    method = body.get("method")
    if method is not None and values.get("method", method) != method:
        raise InvalidInputError(
            f"method is {method!r}, but the recipe says {values['method']!r}. Give it once, or the same twice."
        )
    return Recipe.from_dict(values if method is None else {**values, "method": method})


def _require_dataset(context: AppContext, dataset_id: Any, version_id: str | None) -> tuple[Dataset, DatasetVersion]:
    if not isinstance(dataset_id, str) or not dataset_id:
        raise InvalidInputError("dataset_id is missing. Upload a table first, and give its id.")
    with context.database.read() as session:
        dataset, version = get_dataset(session, dataset_id)
        if version_id is not None:
            version = get_version(session, version_id)
    blocking = [finding for finding in version.findings if finding.get("severity") == "blocks"]
    if blocking:
        more = f" ({len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise ConflictError(f"{dataset.name!r} cannot be trained on yet: {blocking[0]['message']}{more}")
    return dataset, version


def _check_length(recipe: Recipe, measured: Geometry) -> None:
    length = _set(recipe.num_virtual_tokens)
    if length > measured.context_length // 2:
        raise InvalidInputError(
            f"num_virtual_tokens is {length}; the context of this base model is {measured.context_length} tokens and a "
            f"prefix may take half of it. Give at most {measured.context_length // 2}."
        )


def _resolve(
    context: AppContext, wish: Recipe, version: DatasetVersion, base_model: BaseModel, instruction: str
) -> Recipe:
    """The recipe that the trainer will come to, as far as that can be known without loading the base."""
    return resolve(
        wish,
        num_train=count_rows(context.store, version)["train"],
        instruction_tokens=_count_tokens(base_model, instruction),
        geometry=geometry(base_model.config or {}),
        num_base_parameters=int(base_model.details.get("num_parameters") or 0),
        on_gpu=shutil.which("nvidia-smi") is not None,
    )


def _count_tokens(base_model: BaseModel, text: str) -> int:
    """Tokens of a text, counted without torch."""
    path = Path(base_model.path or "") / "tokenizer.json"
    if not path.is_file():
        return len(text) // BYTES_PER_TOKEN
    return len(Tokenizer.from_file(str(path)).encode(text).ids)


def _estimate_bytes(base_model: BaseModel, measured: Geometry, recipe: Recipe, row_tokens: int) -> int:
    config = base_model.config or {}
    stored = config.get("dtype") or config.get("torch_dtype")
    return estimate_training_bytes(
        measured,
        int(base_model.details.get("num_parameters") or 0),
        workload_of(recipe, measured, row_tokens),
        dtype=number_format(recipe.precision, str(stored) if stored else None, find_devices()[0]),
        method=recipe.method,
        precision=recipe.precision,
    )


def _free_memory() -> int:
    """What a training may take: memory of the first GPU where there is one, else of the machine."""
    device = find_devices()[0]
    free = None if device is None else MachineMemory().free_bytes(device)
    return available_memory() if free is None else free


def _rendering(body: dict[str, Any], version: DatasetVersion) -> dict[str, Any]:
    mapping = version.mapping
    kind = body.get("rendering") or mapping.get("rendering") or "auto"
    if kind not in RENDERINGS:
        raise InvalidInputError(f"rendering is {kind!r}; expected one of {', '.join(RENDERINGS)}.")
    if is_conversation(mapping):
        kind = "conversation"
    return {
        "kind": kind,
        "template": mapping.get("template") or "",
        "target": mapping.get("target") or "",
        "instruction": mapping.get("instruction") or "",
        "few_shot_seed": int(mapping.get("seed") or 0),
    }


def _check_template(base_model: BaseModel, kind: str) -> None:
    if kind in ("chat", "conversation") and base_model.details.get("has_chat_template") is False:
        rows = "The rows are conversations, and" if kind == "conversation" else "Chat rendering was asked for, and"
        remedy = "upload rows of one prompt and one answer" if kind == "conversation" else "choose plain rendering"
        raise InvalidInputError(
            f"{rows} {base_model.name} has no chat template to write them with. Pick a chat model as base, or {remedy}."
        )


def _text(body: dict[str, Any], name: str, remedy: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} is missing. {remedy}")
    return value


def _set(value: int | None) -> int:
    """A number that `resolve` has set."""
    assert value is not None
    return value
