"""What the database says about an answering job: its table, its prefix, and the base model that both need."""

from dataclasses import dataclass
from pathlib import Path

from storage.answerings import get_answering
from storage.artifacts import ArtifactStore
from storage.bases.catalog import fingerprint_cache
from storage.bases.fingerprint import fingerprint
from storage.database import Database
from storage.errors import ConflictError, NotFoundError, WrongBaseError
from storage.jobs import get_job
from storage.prefixes import get_prefix
from storage.rows import stored_path
from storage.schema.answering import Answering
from storage.schema.job import Job
from storage.settings import Settings
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.prefix_file import read_prefix_file
from worker.engine.prompt_tuning import load_bank
from worker.inference.registry import BaseEntry, PrefixEntry, Registry


@dataclass(frozen=True)
class AnsweringTask:
    """One table and who answers it.

    Attributes:
        job: Its row.
        answering: The rest of its row.
        base: The base model.
        prefix: The prefix in whose rendering rows are asked.
        prefix_path: Where its numbers lie.
        table: The uploaded table as Parquet.
        fingerprint: Of the base model's weights as they lie in the folder now.
    """

    job: Job
    answering: Answering
    base: BaseEntry
    prefix: PrefixEntry
    prefix_path: Path
    table: Path
    fingerprint: str

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that the prefix takes; 0 where the base answers alone."""
        return self.prefix.num_virtual_tokens if self.answering.uses_prefix else 0

    def load_bank(self, base: LoadedBase) -> PrefixBank | None:
        """The prefix in slot 0, or None where the base answers alone.

        Raises:
            InvalidPrefixFileError: The prefix's file is damaged.
        """
        if not self.answering.uses_prefix:
            return None
        return load_bank(base, [read_prefix_file(self.prefix_path, self.prefix.method, base.geometry)])


def read_answering(settings: Settings, database: Database, store: ArtifactStore, job_id: str) -> AnsweringTask:
    """Reads an answering job.

    Raises:
        StudioError: Something that it needs is gone, or the base's weights are not those of the prefix.
    """
    registry = Registry(database, store)
    with database.read() as session:
        job = get_job(session, job_id)
        answering = get_answering(session, job_id)
        try:
            name = get_prefix(session, answering.prefix_id).name
        except NotFoundError as error:
            raise ConflictError(
                f"The prefix {answering.prefix_name!r} was deleted, so nobody answers this table. Give it to another."
            ) from error
    target = registry.find(name)
    assert target.prefix is not None
    found = fingerprint(target.base.folder, fingerprint_cache(settings))
    if answering.uses_prefix and found != target.prefix.base_fingerprint:
        raise WrongBaseError(
            f"The prefix {name!r} was trained on a base model with the fingerprint "
            f"{target.prefix.base_fingerprint[:16]}, and {target.base.name!r} has {found[:16]} now. Put the old "
            "weights back, then try again."
        )
    return AnsweringTask(
        job=job,
        answering=answering,
        base=target.base,
        prefix=target.prefix,
        prefix_path=registry.prefix_path(target.prefix),
        table=stored_path(store, answering.table_hash),
        fingerprint=found,
    )
