"""Faults of the whole house while a training runs: the database locked, the web role killed, a stop and a new start."""

import re
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import expect

from tests.browser import open_browser
from tests.studio import Studio
from tests.tiny import tiny_base_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUSY_TIMEOUT_S = 1.0
BOUNDARY = "a-boundary"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="NAME"; filename="slow.csv"\r\n'
    "Content-Type: text/csv\r\n\r\ntext,label\r\n"
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("house")
    tiny_base_folder(folder / "models" / "tiny")
    hasty = {"PREFIX_STUDIO_BUSY_TIMEOUT_S": str(BUSY_TIMEOUT_S), "PREFIX_STUDIO_CHECKPOINT_EVERY_S": "1"}
    with Studio(folder / "home", folder / "models", **hasty) as studio:
        yield studio


@pytest.fixture(scope="module")
def job_id(studio: Studio) -> str:
    """A training that goes on for as long as the tests of this file do."""
    rows = "".join(f"row number {index},{'ab'[index % 2]}\n" for index in range(40))
    dataset = studio.api("POST", "/datasets", files={"file": ("table.csv", f"text,label\n{rows}".encode())})
    recipe = {"max_steps": 100_000, "num_virtual_tokens": 4, "learning_rate": 1e-6, "eval_every": 50_000}
    body = {"dataset_id": dataset["id"], "base_model": "tiny", "name": "Long", "recipe": recipe}
    job_id = str(studio.api("POST", "/jobs", json=body)["id"])
    until(lambda: job(studio, job_id)["step"] > 20)
    return job_id


def until(holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.05)


def job(studio: Studio, job_id: str) -> dict[str, Any]:
    return dict(studio.api("GET", f"/jobs/{job_id}"))


def goes_on(studio: Studio, job_id: str) -> None:
    """Waits until the training has done further steps."""
    step = job(studio, job_id)["step"]
    until(lambda: job(studio, job_id)["step"] > step)


def steps(studio: Studio, job_id: str) -> list[tuple[int, int]]:
    """Attempt and step of every step of the job, as they were told."""
    with closing(sqlite3.connect(studio.home / "studio.db")) as database:
        rows = database.execute(
            "SELECT attempt, step FROM job_events WHERE job_id = ? AND kind = 'step' ORDER BY id", (job_id,)
        )
        return [(int(attempt), int(step)) for attempt, step in rows]


def test_locked_database_is_told_in_a_sentence_and_nothing_is_lost(studio: Studio, job_id: str) -> None:
    with closing(locking(studio)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked_at = job(studio, job_id)["step"]
        refused = httpx.post(f"{studio.url}/api/v1/jobs/{job_id}/pause", timeout=30.0, trust_env=False)
        until(lambda: "in use by another process" in dispatcher(studio).get("fault", ""))
        other.execute("ROLLBACK")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert int(refused.headers["retry-after"]) > 0
    assert "in use by another process for more than 1 seconds. Try again" in refused.json()["error"]["message"]
    until(lambda: job(studio, job_id)["step"] > locked_at + 100)
    told = steps(studio, job_id)
    assert [step for _, step in told] == list(range(1, len(told) + 1))
    assert job(studio, job_id)["status"] == "running"
    until(lambda: "fault" not in dispatcher(studio))


def dispatcher(studio: Studio) -> dict[str, Any]:
    return dict(studio.api("GET", "/healthz")["roles"]["dispatcher"])


@pytest.mark.browser
def test_locked_database_is_told_at_the_top_of_the_jobs(studio: Studio, job_id: str) -> None:
    with open_browser() as browser, closing(locking(studio)) as other:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{studio.url}/?tab=jobs&job={job_id}")
        expect(page.locator("#job-state")).to_contain_text("Step", timeout=120_000)
        other.execute("BEGIN IMMEDIATE")
        expect(page.locator("#job-notice")).to_contain_text("database is in use by another process")
        assert "Traceback" not in page.content()
        other.execute("ROLLBACK")
        expect(page.locator("#job-notice .ps-notice")).to_have_count(0)


def locking(studio: Studio) -> sqlite3.Connection:
    return sqlite3.connect(studio.home / "studio.db", timeout=30.0, isolation_level=None)


@pytest.mark.parametrize(("path", "field"), [("/api/v1/datasets", "file"), ("/gradio_api/upload", "files")])
def test_web_role_killed_in_an_upload_leaves_nothing_and_disturbs_no_training(
    studio: Studio, job_id: str, path: str, field: str
) -> None:
    datasets = studio.api("GET", "/datasets")
    before = files(studio)
    with socket.create_connection(("127.0.0.1", studio.port)) as connection:
        head = HEAD.replace("NAME", field).encode()
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\nContent-Length: 500000000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
            + head
        )
        for _ in range(30):
            connection.sendall(b"some text,label\r\n" * 10_000)
        if "gradio" in path:
            until(lambda: len(files(studio)) > len(before))  # what is left behind, if nobody sweeps it
        web = role(studio, "app.web")
        web.kill()
    until(lambda: answers(studio) and role(studio, "app.web").pid != web.pid)
    assert studio.api("GET", "/datasets") == datasets
    assert files(studio) == before
    goes_on(studio, job_id)
    assert {attempt for attempt, _ in steps(studio, job_id)} == {1}


def role(studio: Studio, module: str) -> psutil.Process:
    for child in psutil.Process(studio.process.pid).children():
        if module in child.cmdline():
            return child
    raise psutil.NoSuchProcess(0, module)


def answers(studio: Studio) -> bool:
    try:
        return httpx.get(f"{studio.url}/healthz", timeout=2.0, trust_env=False).is_success and bool(
            role(studio, "app.web")
        )
    except (httpx.TransportError, psutil.NoSuchProcess):
        return False


def files(studio: Studio) -> list[Path]:
    """What uploads have left so far."""
    folders = [studio.home / "uploads", studio.home / "cache" / "page", studio.home / "artifacts" / "incoming"]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def test_stop_in_training_leaves_a_checkpoint_from_which_the_next_start_goes_on(studio: Studio, job_id: str) -> None:
    goes_on(studio, job_id)
    assert studio.stop() == 0
    with closing(sqlite3.connect(studio.home / "studio.db")) as database:
        row = database.execute("SELECT status, attempt, lost_attempts, step FROM jobs WHERE id = ?", (job_id,))
        status, attempt, lost, step = row.fetchone()
        (kept,) = database.execute("SELECT max(step) FROM checkpoints WHERE job_id = ?", (job_id,)).fetchone()
    assert (status.lower(), attempt, lost, kept) == ("queued", 1, 0, step)
    studio.__enter__()
    until(lambda: job(studio, job_id)["step"] > step)
    told = steps(studio, job_id)
    assert [number for _, number in told] == list(range(1, len(told) + 1))
    assert {attempt for attempt, number in told if number > step} == {2}


def test_kill_of_every_process_at_once_costs_neither_the_job_nor_a_whole_lease(studio: Studio, job_id: str) -> None:
    goes_on(studio, job_id)
    before = steps(studio, job_id)[-1][0]
    everything = [psutil.Process(studio.process.pid), *psutil.Process(studio.process.pid).children(recursive=True)]
    for process in everything:
        process.send_signal(signal.SIGSTOP)  # so that none hears of the death of another
    for process in everything:
        process.kill()
    studio.process.wait()
    started = time.monotonic()
    studio.__enter__()
    until(lambda: job(studio, job_id)["status"] == "running" and steps(studio, job_id)[-1][0] == before + 1)
    assert time.monotonic() - started < 50.0
    studio.api("POST", f"/jobs/{job_id}/stop", json={"keep": True})
    done = studio.wait_for_job(job_id)
    assert (done["status"], bool(re.fullmatch("[0-9a-f]+", done["prefix_id"]))) == ("succeeded", True)
    told = steps(studio, job_id)
    first_of_next = next(step for attempt, step in told if attempt == before + 1)
    assert 1 < first_of_next <= max(step for attempt, step in told if attempt == before) + 1
