"""Model names → what has to be loaded for them, read from the database; knows no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from storage.artifacts import ArtifactStore
from storage.base_models import find_base_model, get_base_model_by_id, list_base_models
from storage.database import Database
from storage.datasets import get_version
from storage.errors import ConflictError, NotFoundError
from storage.prefixes import find_prefix, list_prefixes
from storage.rows import load_parts
from storage.schema.base_model import BaseModel, DownloadState
from storage.schema.job import Job
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.snapshots import find_snapshot
from storage.stored_rows import Row
from worker.engine.errors import UnsupportedPrecisionError
from worker.engine.quantisation import check_quantisation, is_quantised
from worker.engine.recipe import Method, Precision
from worker.engine.rendering import Rendering
from worker.inference.errors import UnknownModelError

NO_RENDERING = {"kind": "plain", "template": "", "target": ""}
"""A prefix that another tool made may come without one."""


@dataclass(frozen=True)
class BaseEntry:
    """A base model that is on this machine.

    Attributes:
        id: Of its row.
        name: Its model name.
        folder: Where its files lie.
        state: Changes with its files, so that new ones are loaded.
        precision: What it is loaded in; `auto`, or the int8 or int4 that a prefix was trained with, because a base that
            was too large in full for training is so for answering.
    """

    id: str
    name: str
    folder: Path
    state: str
    precision: Precision = "auto"


@dataclass(frozen=True)
class PrefixEntry:
    """A trained prefix, as far as using it goes."""

    name: str
    artifact_hash: str
    method: Method
    num_virtual_tokens: int
    base_fingerprint: str
    rendering: Rendering
    dataset_version_id: str | None


@dataclass(frozen=True)
class Target:
    """What a model name stands for: a base, alone or with a prefix."""

    base: BaseEntry
    prefix: PrefixEntry | None = None

    @property
    def name(self) -> str:
        """The model name."""
        return self.base.name if self.prefix is None else self.prefix.name

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that the prefix takes; 0 without one."""
        return 0 if self.prefix is None else self.prefix.num_virtual_tokens


class Registry:
    """Looks names up in the database, each time anew, so that what was trained a moment ago is found.

    Args:
        database: The open database.
        store: The artifacts.
    """

    def __init__(self, database: Database, store: ArtifactStore) -> None:
        self._database = database
        self._store = store

    def find(self, name: str) -> Target:
        """What a model name stands for; where nothing has exactly that name, it may be that of a snapshot.

        Raises:
            UnknownModelError: Nothing has that name.
            NotFoundError: It names a step of a training that no snapshot is kept of.
            ConflictError: The base model is not on this machine.
        """
        with self._database.read() as session:
            base_model = find_base_model(session, name)
            if base_model is not None:
                return Target(_base_entry(base_model))
            prefix = find_prefix(session, name)
            found = find_snapshot(session, name) if prefix is None else None
            origin = prefix or (found[1] if found else None)
            if origin is None:
                raise UnknownModelError(
                    f"There is no model {name!r}; expected the name of a base model or of a prefix. "
                    "GET /v1/models lists them."
                )
            base_model = get_base_model_by_id(session, origin.base_model_id)
            entry = replace(_base_entry(base_model), precision=_precision(origin))
            return Target(entry, _prefix_entry(name, found[0] if found else cast(Prefix, prefix), origin))

    def listing(self) -> list[dict[str, Any]]:
        """Every model that can be asked, in OpenAI's form; prefixes name their base."""
        with self._database.read() as session:
            ready = [base for base in list_base_models(session) if _is_ready(base)]
            ready_ids = {base.id for base in ready}
            prefixes = [prefix for prefix in list_prefixes(session) if prefix.base_model_id in ready_ids]
            return [
                *(_model_body(base, kind="base") for base in ready),
                *(_model_body(prefix, kind="prefix", base_model=prefix.base_model) for prefix in prefixes),
            ]

    def prefix_path(self, prefix: PrefixEntry) -> Path:
        """Where the numbers of a prefix lie.

        Raises:
            NotFoundError: They are gone.
        """
        if not self._store.exists(prefix.artifact_hash):
            raise NotFoundError(f"The file of the prefix {prefix.name!r} is gone from this machine. Import it again.")
        return self._store.path(prefix.artifact_hash)

    def training_rows(self, prefix: PrefixEntry) -> Sequence[Row]:
        """The rows that a prefix was trained on; none where its dataset has been deleted."""
        if prefix.dataset_version_id is None:
            return []
        try:
            with self._database.read() as session:
                version = get_version(session, prefix.dataset_version_id)
        except NotFoundError:
            return []
        return load_parts(self._store, version).train


def _is_ready(base_model: BaseModel) -> bool:
    return base_model.download_state is DownloadState.READY and base_model.path is not None


def _base_entry(base_model: BaseModel) -> BaseEntry:
    if not _is_ready(base_model):
        raise ConflictError(
            f"The base model {base_model.name!r} is not on this machine ({base_model.download_state}). "
            "Download it in the list of base models first."
        )
    state = str(base_model.details.get("signature") or base_model.revision or "")
    return BaseEntry(base_model.id, base_model.name, Path(base_model.path or ""), state)


def _precision(origin: Prefix | Job) -> Precision:
    """What its base is loaded in; one that was trained elsewhere in fewer bits than can be had here is used in full."""
    named = str(origin.recipe.get("precision"))
    try:
        check_quantisation(named)
    except UnsupportedPrecisionError:
        return "auto"
    return cast(Precision, named) if is_quantised(named) else "auto"


def _prefix_entry(name: str, numbers: Prefix | Snapshot, origin: Prefix | Job) -> PrefixEntry:
    """What a name stands for: numbers, which for a snapshot lie in a row of their own, and where they come from."""
    return PrefixEntry(
        name=name,
        artifact_hash=numbers.artifact_hash,
        method=cast(Method, origin.method),
        num_virtual_tokens=numbers.num_virtual_tokens,
        base_fingerprint=numbers.base_fingerprint,
        rendering=Rendering.from_dict({**NO_RENDERING, **numbers.rendering}),
        dataset_version_id=origin.dataset_version_id,
    )


def _model_body(row: BaseModel | Prefix, **more: str) -> dict[str, Any]:
    created = int(row.created_at.timestamp())
    return {"id": row.name, "object": "model", "created": created, "owned_by": "prefix-studio", **more}
