"""Jobs side by side: what differs is told, what cannot be compared is refused, no curve goes by colour alone."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.ui import compare_runs_view, job_view, overlay, sweep_view
from storage.database import Database
from storage.lease import Progress
from storage.settings import Settings
from tests.runs import add_run, run_job
from tests.stored import claim

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, page=False), base_url="http://127.0.0.1") as client:
        yield client


def compare(client: TestClient, *ids: str) -> dict[str, Any]:
    answer = client.get("/api/v1/jobs/compare", params={"ids": ",".join(ids)})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def entry(told: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in (*told["settings"], *told["results"]) if each["name"] == name)
    return found


def test_comparison_tells_curves_settings_and_results_in_the_order_asked(
    client: TestClient, database: Database
) -> None:
    other = {"num_virtual_tokens": 32, "method": "prefix-tuning-plus"}
    short, long = run_job(database, "short", 2.0), run_job(database, "long", 1.5, **other)
    told = compare(client, long, short)
    assert [run["name"] for run in told["runs"]] == ["long", "short"]
    assert told["runs"][0]["curve"]["steps"] == list(range(1, 11))
    assert [point["step"] for point in told["runs"][1]["curve"]["validation"]] == [0, 5, 10]
    length = entry(told, "num_virtual_tokens")
    assert (length["values"], length["differs"]) == (["32", "8"], True)
    assert entry(told, "method")["values"] == ["Prefix tuning+", "Prefix tuning"]
    assert not entry(told, "base_model")["differs"]
    # What was left to the automatic recipe is told as it came out.
    assert entry(told, "learning_rate")["values"] == ["0.08 (automatic)"] * 2
    assert entry(told, "validation_loss")["values"] == [1.5, 2.0]
    assert entry(told, "verdict_base")["values"] == ["helps", "helps"]
    assert entry(told, "verdict_few-shot")["values"] == ["no difference", "no difference"]
    assert entry(told, "score")["values"] == ["75 % right", "75 % right"]
    assert entry(told, "num_examples")["values"] == [160, 160]
    assert entry(told, "size_bytes")["values"] == [4096, 4096]
    assert told["best"] == 0


def test_jobs_that_wait_or_run_are_compared_as_far_as_they_are(client: TestClient, database: Database) -> None:
    done = run_job(database, "done", 2.0)
    with database.write() as session:
        waiting = add_run(session, "waiting").id
    told = compare(client, waiting, done)
    assert entry(told, "status")["values"] == ["queued", "succeeded"]
    assert entry(told, "learning_rate")["values"] == ["automatic", "0.08 (automatic)"]
    assert entry(told, "validation_loss")["values"] == [None, 2.0]
    assert told["best"] is None
    assert "lowest" not in compare_runs_view.results(told)


@pytest.mark.parametrize(("count", "said"), [(0, "0 jobs are named"), (1, "1 jobs are named"), (7, "7 jobs are named")])
def test_too_few_or_too_many_jobs_are_refused(client: TestClient, database: Database, count: int, said: str) -> None:
    with database.write() as session:
        ids = [add_run(session, str(number)).id for number in range(count)]
    answer = client.get("/api/v1/jobs/compare", params={"ids": ",".join([*ids, *ids[:1]])})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]


def test_unknown_job_cannot_be_compared(client: TestClient, database: Database) -> None:
    with database.write() as session:
        job = add_run(session, "one").id
    answer = client.get("/api/v1/jobs/compare", params={"ids": f"{job},nothing"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_settings_show_only_differences_unless_all_are_wanted(client: TestClient, database: Database) -> None:
    told = compare(client, run_job(database, "a", 2.0), run_job(database, "b", 1.5, num_virtual_tokens=32))
    only = compare_runs_view.settings(told, only_differences=True)
    assert "Length in tokens" in only
    assert "Base model" not in only
    assert re.search(r"\d+ settings the same in all of them", only)
    assert "Base model" in compare_runs_view.settings(told, only_differences=False)
    alike = compare(client, run_job(database, "c", 2.0), run_job(database, "d", 2.0))
    assert "All settings of these runs are the same." in compare_runs_view.settings(alike, only_differences=True)


def test_results_mark_the_lowest_loss_once(client: TestClient, database: Database) -> None:
    shown = compare_runs_view.results(compare(client, run_job(database, "a", 2.0), run_job(database, "b", 1.5)))
    assert shown.count("lowest") == 1
    assert re.search(r"<strong><bdi>1\.500</bdi></strong> .*lowest", shown)


def test_overlay_tells_curves_apart_by_letter_dash_and_mark() -> None:
    points = [(0.0, 3.0), (5.0, 2.0), (10.0, 1.0)]
    shown = overlay.draw([overlay.Trace(f"run {index}", points, points) for index in range(6)])
    for index, (mark, letter) in enumerate(zip(overlay.MARKS, overlay.LETTERS, strict=True)):
        assert f"ps-strong ps-run-{index} ps-dash-{index}" in shown
        assert f"ps-mark-{mark} ps-run-{index}" in shown
        assert f">{letter}</text>" in shown
    heights = [float(y) for y in re.findall(r'class="ps-end[^>]* y="([\d.]+)"', shown)]
    assert all(later - earlier >= 10 for earlier, later in pairwise(heights))


def test_overlay_without_points_says_when_they_come() -> None:
    assert "appear with the first steps" in overlay.draw([overlay.Trace("a", [], []), overlay.Trace("b", [], [])])


def test_names_and_settings_of_users_stay_text(client: TestClient, database: Database) -> None:
    told = compare(client, run_job(database, HOSTILE, 2.0), run_job(database, "b", 1.5))
    told["settings"][0]["values"][0] = HOSTILE
    sweep = [{"rate": 0.1, "loss": None, "step": 3, "state": "dropped", "label": HOSTILE}]
    pieces = [
        compare_runs_view.curves(told), compare_runs_view.results(told), sweep_view.shown(sweep),
        compare_runs_view.settings(told, only_differences=False),
    ]  # fmt: skip
    assert "<img" not in "".join(pieces)


def test_bar_says_how_to_compare_and_offers_it_from_two_on() -> None:
    assert "Tick two or more" in compare_runs_view.marked_bar([], 3, 6)
    assert "compare-runs" not in compare_runs_view.marked_bar(["a"], 3, 6)
    assert "compare-runs" in compare_runs_view.marked_bar(["a", "b"], 3, 6)
    assert "two to 6 can be compared" in compare_runs_view.marked_bar(list("abcdefg"), 9, 6)
    assert compare_runs_view.marked_bar([], 1, 6) == ""


def test_sweep_tells_what_was_tried_and_when_it_was_dropped() -> None:
    candidates = [
        {"rate": 0.03, "loss": 2.5, "step": 60, "state": "dropped"},
        {"rate": 0.06, "loss": 1.75, "step": 120, "state": "chosen"},
        {"rate": 0.24, "loss": None, "step": 8, "state": "dropped"},
    ]
    shown = sweep_view.shown(candidates)
    assert "0.06</bdi> won among 3 learning rates" in shown
    assert "2.5<span" in shown
    assert "not a number" in shown
    assert "two kinds" not in shown
    labelled = sweep_view.shown([{**each, "label": f"kind {each['rate']}"} for each in candidates])
    assert "kind 0.06</bdi> won among 3 candidates" in labelled
    assert "2 still tried" in sweep_view.shown([{**each, "state": "trying"} for each in candidates[:2]])
    assert sweep_view.shown([]) == ""


def test_sample_answers_are_kept_by_step_and_shown_with_a_slider(client: TestClient, database: Database) -> None:
    job = run_job(database, "a", 2.0)
    looks = client.get(f"/api/v1/jobs/{job}/samples").json()
    assert [(look["step"], look["rows"][0]["prefix"]) for look in looks] == [(5, "a at 5"), (10, "a at 10")]
    shown = job_view.samples(job, looks)
    assert 'data-frame="After step 5, look 1 of 2" hidden' in shown
    assert 'data-frame="After step 10, look 2 of 2">' in shown
    assert "range" not in job_view.samples(job, looks[-1:])


def test_activity_tells_what_runs_and_what_ended_since(client: TestClient, database: Database) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    done = run_job(database, "done", 2.0)
    with database.write() as session:
        running, _ = add_run(session, "running").id, add_run(session, "waiting")
    lease = claim(database)
    with database.write() as session:
        lease.record(session, [], Progress(step=62, max_steps=100))
    told = client.get("/api/v1/jobs/activity", params={"since": before.isoformat()}).json()
    assert [(job["id"], job["share"]) for job in told["running"]] == [(running, 0.62)]
    assert told["num_queued"] == 1
    assert [(job["id"], job["name"], job["status"]) for job in told["ended"]] == [(done, "done", "succeeded")]
    assert client.get("/api/v1/jobs/activity", params={"since": told["now"]}).json()["ended"] == []
    assert client.get("/api/v1/jobs/activity").json()["ended"] == []
    assert client.get("/api/v1/jobs/activity", params={"since": "yesterday"}).status_code == 422
