"""The prefix of each evaluation: kept through the lease, thinned out, found by name, gone when nobody needs it."""

from itertools import pairwise

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import snapshots as routes
from app.api.errors import install_error_answers
from app.context import AppContext
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import NotFoundError
from storage.jobs import delete_job, request_stop, retry_job
from storage.lease import Lease, LeaseLostError
from storage.prefixes import create_prefix, delete_prefix, rename_prefix
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.settings import Settings
from storage.snapshots import (
    NewSnapshot,
    find_snapshot,
    forget_after,
    keep_exact,
    keep_snapshot,
    list_snapshots,
    most_dispensable,
)
from tests.stored import PREFIX_FIELDS, RENDERING, add_base_model, add_job, claim
from worker.inference.errors import UnknownModelError
from worker.inference.registry import Registry


def new(step: int, loss: float | None = 1.0, artifact_hash: str = "") -> NewSnapshot:
    digest = artifact_hash or f"{step:064x}"
    return NewSnapshot(step, loss, digest, 100, num_virtual_tokens=8, base_fingerprint="f" * 64, rendering=RENDERING)


def keep(database: Database, lease: Lease, *snapshots: NewSnapshot, cap: int = 32) -> None:
    for each in snapshots:
        with database.write() as session:
            keep_snapshot(session, lease, each, cap)


def steps(database: Database, job_id: str) -> list[int]:
    with database.read() as session:
        return [each.step for each in list_snapshots(session, job_id)]


@pytest.fixture
def lease(database: Database) -> Lease:
    with database.write() as session:
        add_job(session)
    return claim(database)


def publish(database: Database, lease: Lease, exact: NewSnapshot) -> Prefix:
    with database.write() as session:
        keep_exact(session, lease, exact)
        return lease.succeed(session, {**PREFIX_FIELDS, "artifact_hash": exact.artifact_hash})


def test_snapshot_of_a_step_that_is_trained_again_takes_the_place_of_the_first(
    database: Database, lease: Lease
) -> None:
    keep(database, lease, new(0), new(20), new(40), new(20, 0.5, "b" * 64))
    with database.read() as session:
        kept = list_snapshots(session, lease.job_id)
    assert [(each.step, each.validation_loss) for each in kept] == [(0, 1.0), (20, 0.5), (40, 1.0)]
    assert kept[1].artifact_hash == "b" * 64


def test_attempt_that_lost_its_job_keeps_no_snapshot(database: Database, lease: Lease) -> None:
    with database.write() as session:
        lease.lose(session, "it was killed")
    claim(database)
    with pytest.raises(LeaseLostError, match="no longer owns it"):
        keep(database, lease, new(20))
    with pytest.raises(LeaseLostError, match="no longer owns it"), database.write() as session:
        forget_after(session, lease, None)
    assert steps(database, lease.job_id) == []


def test_training_that_goes_on_forgets_what_lies_behind_the_step_that_it_goes_on_from(
    database: Database, lease: Lease
) -> None:
    keep(database, lease, *(new(step) for step in (0, 20, 40, 60)))
    with database.write() as session:
        forget_after(session, lease, 40)
    assert steps(database, lease.job_id) == [0, 20, 40]
    with database.write() as session:
        forget_after(session, lease, None)
    assert steps(database, lease.job_id) == []


def test_past_the_cap_snapshots_are_thinned_evenly_around_first_best_and_last(database: Database, lease: Lease) -> None:
    losses = {step: 2.0 - step / 1000 for step in range(0, 400, 10)} | {70: 0.1}
    keep(database, lease, *(new(step, loss) for step, loss in losses.items()), cap=8)
    kept = steps(database, lease.job_id)
    assert len(kept) == 8
    assert {0, 70, 390} <= set(kept)
    gaps = [after - before for before, after in pairwise(kept)]
    assert max(gaps) <= 100


def test_the_one_between_the_nearest_neighbours_is_missed_least() -> None:
    def of(step: int, loss: float | None) -> Snapshot:
        return Snapshot(step=step, validation_loss=loss)

    assert most_dispensable([of(0, 3.0), of(10, 2.0), of(12, 1.0), of(40, 1.5)]) == 10
    assert most_dispensable([of(0, None), of(10, None), of(30, None), of(40, None)]) == 10
    assert most_dispensable([of(0, 3.0), of(10, 0.5), of(30, 1.0), of(40, 1.5)]) == 30


def test_published_prefix_stands_at_its_step_exactly(database: Database, lease: Lease) -> None:
    keep(database, lease, new(0), new(20, 0.4), new(40))
    publish(database, lease, new(20, 0.4, "e" * 64))
    with database.read() as session:
        kept = list_snapshots(session, lease.job_id)
    assert [each.step for each in kept] == [0, 20, 40]
    assert kept[1].artifact_hash == "e" * 64


def test_snapshots_are_found_by_the_name_of_their_prefix_and_by_their_job(
    database: Database, store: ArtifactStore, lease: Lease
) -> None:
    keep(database, lease, new(0), new(20))
    registry = Registry(database, store)
    with database.write() as session:
        add_base_model(session).path = "somewhere"
    under_way = registry.find(f"job:{lease.job_id}@20")
    assert under_way.prefix is not None
    assert (under_way.name, under_way.prefix.artifact_hash) == (f"job:{lease.job_id}@20", f"{20:064x}")
    assert (under_way.prefix.num_virtual_tokens, under_way.prefix.rendering.template) == (8, "{text}")
    prefix = publish(database, lease, new(20, 0.4, "e" * 64))
    assert registry.find("Reviews@20").prefix.artifact_hash == registry.find("Reviews").prefix.artifact_hash == "e" * 64
    assert registry.find("Reviews@0").prefix.artifact_hash == f"{0:064x}"
    with database.write() as session:
        rename_prefix(session, prefix.id, "support@night")
    assert registry.find("support@night@0").prefix.artifact_hash == f"{0:064x}"
    with pytest.raises(UnknownModelError, match="no model 'Reviews@0'"):
        registry.find("Reviews@0")
    with pytest.raises(NotFoundError, match=r"no snapshot of step 7\. Choose one of 0, 20\."):
        registry.find("support@night@7")


def test_prefix_whose_name_looks_like_a_snapshot_comes_first(
    database: Database, store: ArtifactStore, lease: Lease
) -> None:
    keep(database, lease, new(0), new(20))
    publish(database, lease, new(20))
    with database.write() as session:
        base_model = add_base_model(session)
        base_model.path = "somewhere"
        fields = {"base_model_id": base_model.id, "base_model": "tiny", "method": "prefix-tuning", "recipe": {}}
        for name in ("Reviews@0", "a@b", "@7"):
            create_prefix(session, name, {**PREFIX_FIELDS, **fields, "rendering": RENDERING})
    registry = Registry(database, store)
    for name in ("Reviews@0", "a@b", "@7"):
        found = registry.find(name)
        assert (found.name, found.prefix.artifact_hash) == (name, "a" * 64)
    with pytest.raises(NotFoundError, match="It has none"):
        registry.find("a@b@0")


@pytest.mark.parametrize(
    "name", ["nobody@3", "job:0000000000000000@3", "Reviews@", "@3", "Reviews@-1", "Reviews@³", "x"]
)
def test_ids_of_no_prefix_and_no_job_name_no_snapshot(database: Database, name: str) -> None:
    with database.read() as session:
        assert find_snapshot(session, name) is None


def test_routes_list_the_states_of_a_prefix_and_of_a_job(
    settings: Settings, database: Database, store: ArtifactStore, lease: Lease
) -> None:
    app = FastAPI()
    app.state.context = AppContext(settings, database, store)
    install_error_answers(app)
    app.include_router(routes.router, prefix="/api/v1")
    client = TestClient(app)
    keep(database, lease, new(0, None), new(20, 0.4))
    job = f"job:{lease.job_id}"
    assert client.get(f"/api/v1/jobs/{lease.job_id}/snapshots").json() == [
        {"step": 0, "validation_loss": None, "model": f"{job}@0"},
        {"step": 20, "validation_loss": 0.4, "model": f"{job}@20"},
    ]
    prefix = publish(database, lease, new(20, 0.4, "e" * 64))
    assert client.get(f"/api/v1/prefixes/{prefix.id}/snapshots").json() == [
        {"step": 0, "validation_loss": None, "model": "Reviews@0", "is_published": False},
        {"step": 20, "validation_loss": 0.4, "model": "Reviews@20", "is_published": True},
    ]
    assert client.get("/api/v1/prefixes/0000/snapshots").status_code == 404
    assert client.get("/api/v1/jobs/0000/snapshots").status_code == 404


def test_snapshots_stay_with_the_job_or_the_prefix_and_go_with_the_last_of_both(
    database: Database, lease: Lease
) -> None:
    keep(database, lease, new(0), new(20))
    prefix = publish(database, lease, new(20))
    with database.write() as session:
        delete_job(session, lease.job_id)
    assert steps(database, lease.job_id) == [0, 20]
    with database.write() as session:
        delete_prefix(session, prefix.id)
    assert steps(database, lease.job_id) == []


def test_snapshots_of_a_deleted_prefix_stay_with_its_job(database: Database, lease: Lease) -> None:
    keep(database, lease, new(0))
    prefix = publish(database, lease, new(20))
    with database.write() as session:
        delete_prefix(session, prefix.id)
    assert steps(database, lease.job_id) == [0, 20]
    with database.read() as session:
        assert find_snapshot(session, f"job:{lease.job_id}@20") is not None
    with database.write() as session:
        delete_job(session, lease.job_id)
    assert steps(database, lease.job_id) == []


@pytest.mark.parametrize("end", ["discarded while it waits", "discarded while it runs", "lost when discarded"])
def test_snapshots_go_when_the_job_is_discarded(database: Database, lease: Lease, end: str) -> None:
    keep(database, lease, new(0), new(20))
    with database.write() as session:
        if end == "discarded while it waits":
            lease.release(session, paused=True)
        request_stop(session, lease.job_id, keep=False)
        if end == "discarded while it runs":
            lease.cancel(session)
        elif end == "lost when discarded":
            lease.lose(session, "it was killed")
    assert steps(database, lease.job_id) == []


def test_snapshots_go_when_a_failed_job_begins_anew(database: Database, lease: Lease) -> None:
    keep(database, lease, new(0), new(20))
    with database.write() as session:
        lease.fail(session, {"code": "x", "message": "x"})
    assert steps(database, lease.job_id) == [0, 20]
    with database.write() as session:
        retry_job(session, lease.job_id)
    assert steps(database, lease.job_id) == []
