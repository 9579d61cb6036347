"""Prefixes as rows: names that are unique among everything that answers to a `model` id."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from storage.base_models import BaseModelRecord, register
from storage.database import Database
from storage.errors import ConflictError, InvalidInputError, NotFoundError
from storage.jobs import get_job
from storage.prefixes import (
    create_prefix,
    delete_prefix,
    find_prefix,
    free_name,
    get_prefix,
    list_prefixes,
    rename_prefix,
)
from storage.schema.base_model import BaseModelSource, DownloadState
from storage.schema.prefix import Prefix
from tests.stored import PREFIX_FIELDS, RECIPE, RENDERING, add_base_model, add_job, claim


def add_prefix(session: Session, name: str) -> Prefix:
    base_model = add_base_model(session)
    fields: dict[str, Any] = {
        **PREFIX_FIELDS,
        "base_model_id": base_model.id,
        "base_model": base_model.name,
        "method": "prefix-tuning",
        "recipe": RECIPE,
        "rendering": RENDERING,
    }
    return create_prefix(session, name, fields)


def test_created_prefix_is_found_by_name_and_id(database: Database) -> None:
    with database.write() as session:
        older = add_prefix(session, "older")
        newer = add_prefix(session, " newer ")
    with database.read() as session:
        assert get_prefix(session, newer.id).name == "newer"
        found = find_prefix(session, "older")
        assert found is not None
        assert found.id == older.id
        assert find_prefix(session, "Older") is None
        assert [prefix.name for prefix in list_prefixes(session)] == ["newer", "older"]


@pytest.mark.parametrize(("name", "owner"), [("Reviews", "prefix"), ("tiny", "base model")])
def test_taken_name_is_refused(database: Database, name: str, owner: str) -> None:
    with database.write() as session:
        add_prefix(session, "Reviews")
        other = add_prefix(session, "other")
    with pytest.raises(ConflictError, match=f"'{name}' is the name of a {owner} already"), database.write() as session:
        add_prefix(session, name)
    with pytest.raises(ConflictError, match=f"'{name}' is the name of a {owner} already"), database.write() as session:
        rename_prefix(session, other.id, name)


def test_rename_to_its_own_name_changes_nothing(database: Database) -> None:
    with database.write() as session:
        prefix = add_prefix(session, "Reviews")
        assert rename_prefix(session, prefix.id, " Reviews ").name == "Reviews"
        assert rename_prefix(session, prefix.id, "Tickets").name == "Tickets"


def test_rename_to_an_unusable_name_is_refused(database: Database) -> None:
    with database.write() as session:
        prefix = add_prefix(session, "Reviews")
    with pytest.raises(InvalidInputError, match="name is empty"), database.write() as session:
        rename_prefix(session, prefix.id, " ")


def test_free_name_counts_up_and_stays_within_the_limit(database: Database) -> None:
    with database.write() as session:
        assert free_name(session, "Reviews") == "Reviews"
        assert free_name(session, "tiny") == "tiny"
        for name in ("Reviews", "Reviews 2", "x" * 80):
            add_prefix(session, name)
        assert free_name(session, "Reviews") == "Reviews 3"
        assert free_name(session, "x" * 80) == "x" * 78 + " 2"
        assert free_name(session, "tiny") == "tiny 2"


def test_base_model_does_not_take_the_name_of_a_prefix(database: Database) -> None:
    with database.write() as session:
        add_prefix(session, "Reviews")
    record = BaseModelRecord("Reviews", BaseModelSource.LOCAL, DownloadState.READY)
    with pytest.raises(ConflictError, match="A prefix is called 'Reviews'"), database.write() as session:
        register(session, record)


def test_delete_leaves_the_job_without_a_dangling_link(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
    lease = claim(database)
    with database.write() as session:
        prefix = lease.succeed(session, PREFIX_FIELDS)
    with database.write() as session:
        delete_prefix(session, prefix.id)
    with database.read() as session:
        assert get_job(session, job.id).prefix_id is None
    with pytest.raises(NotFoundError, match="no prefix with the id"), database.read() as session:
        get_prefix(session, prefix.id)


def test_delete_is_refused_while_a_job_needs_the_prefix(database: Database) -> None:
    with database.write() as session:
        prefix = add_prefix(session, "Reviews")
        add_job(session, name="answers").prefix_id = prefix.id
    with pytest.raises(ConflictError, match="'Reviews' is needed by the job 'answers'"), database.write() as session:
        delete_prefix(session, prefix.id)
