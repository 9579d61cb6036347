"""Base models as rows, and their downloads from the wish to the end."""

import pytest

from storage.base_models import (
    BaseModelRecord,
    delete_base_model,
    find_base_model,
    get_base_model,
    get_base_model_by_id,
    list_base_models,
    mark_absent,
    register,
    set_fingerprint,
)
from storage.database import Database
from storage.downloads import (
    cancel_download,
    end_download,
    finish_download,
    next_download,
    record_progress,
    request_download,
    restart_downloads,
)
from storage.errors import ConflictError, NotFoundError
from storage.jobs import delete_job, request_stop
from storage.schema.base_model import BaseModel, BaseModelSource, DownloadState
from tests.stored import add_base_model, add_job

HUB = BaseModelRecord("owner/model", BaseModelSource.HUB, DownloadState.ABSENT, revision="c" * 40)


@pytest.fixture
def hub_model(database: Database) -> BaseModel:
    with database.write() as session:
        return register(session, HUB)


def state_of(database: Database) -> DownloadState:
    with database.read() as session:
        return get_base_model(session, HUB.name).download_state


def test_register_again_updates_what_is_given_and_keeps_the_rest(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        set_fingerprint(session, hub_model.id, "f" * 64)
        register(session, BaseModelRecord(HUB.name, HUB.source, DownloadState.READY, path="/models/m"))
    with database.read() as session:
        base_model = get_base_model_by_id(session, hub_model.id)
        assert (base_model.download_state, base_model.path) == (DownloadState.READY, "/models/m")
        assert (base_model.revision, base_model.fingerprint) == ("c" * 40, "f" * 64)
        assert list_base_models(session) == [base_model]


def test_register_leaves_a_download_under_way(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        register(session, HUB)
    assert state_of(database) == DownloadState.REQUESTED


def test_missing_base_model_is_told(database: Database) -> None:
    with database.read() as session:
        assert find_base_model(session, "x") is None
        with pytest.raises(NotFoundError, match="no base model 'x'"):
            get_base_model(session, "x")
        with pytest.raises(NotFoundError, match="no base model with the id 'x'"):
            get_base_model_by_id(session, "x")


def test_download_goes_from_wish_to_ready(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        request_download(session, HUB.name)
    with database.write() as session:
        taken = next_download(session)
        assert taken is not None
        assert taken.id == hub_model.id
        assert next_download(session) is None
    with database.write() as session:
        assert record_progress(session, hub_model.id, 10, 100) is False
    with database.write() as session:
        finish_download(session, hub_model.id, BaseModelRecord("", HUB.source, DownloadState.READY, path="/m"))
    with database.read() as session:
        ready = get_base_model(session, HUB.name)
    assert (ready.download_state, ready.downloaded_bytes, ready.path) == (DownloadState.READY, 100, "/m")
    with pytest.raises(ConflictError, match="on this machine already"), database.write() as session:
        request_download(session, HUB.name)


def test_cancel_ends_a_waiting_download_at_once(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        cancel_download(session, HUB.name)
    assert state_of(database) == DownloadState.ABSENT
    with pytest.raises(ConflictError, match="nothing to cancel"), database.write() as session:
        cancel_download(session, HUB.name)


def test_cancel_reaches_a_running_download_at_its_next_report(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        next_download(session)
        cancel_download(session, HUB.name)
        assert record_progress(session, hub_model.id, 10, 100) is True
        end_download(session, hub_model.id)
    assert state_of(database) == DownloadState.ABSENT


def test_failed_download_may_be_asked_for_again(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        next_download(session)
        assert end_download(session, hub_model.id, error="No network.").download_error == "No network."
    assert state_of(database) == DownloadState.FAILED
    with database.write() as session:
        assert request_download(session, HUB.name).download_error is None


def test_downloads_cut_off_by_a_restart_are_started_again(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
        next_download(session)
    with database.write() as session:
        assert restart_downloads(session) == 1
    assert state_of(database) == DownloadState.REQUESTED


def test_files_are_not_removed_under_a_download(database: Database, hub_model: BaseModel) -> None:
    with database.write() as session:
        request_download(session, HUB.name)
    with pytest.raises(ConflictError, match="is being downloaded"), database.write() as session:
        mark_absent(session, HUB.name)


def test_files_are_not_removed_while_a_job_needs_them(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
    with pytest.raises(ConflictError, match=r"tiny is needed by 'Reviews' \(queued\)"), database.write() as session:
        mark_absent(session, "tiny")
    with database.write() as session:
        request_stop(session, job.id, keep=False)
        assert mark_absent(session, "tiny").download_state == DownloadState.ABSENT


def test_delete_is_refused_while_anything_refers_to_the_base(database: Database) -> None:
    with database.write() as session:
        job = add_job(session)
        request_stop(session, job.id, keep=False)
    with pytest.raises(ConflictError, match="base of the job 'Reviews'"), database.write() as session:
        delete_base_model(session, "tiny")
    with database.write() as session:
        delete_job(session, job.id)
        delete_base_model(session, "tiny")
        assert list_base_models(session) == []
        add_base_model(session)
