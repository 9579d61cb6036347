"""What users do with the queue in a real browser: compare runs, say when a job starts, hear what has ended."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from storage.database import Database, open_database
from storage.lease import Lease, NewEvent, Progress
from storage.migrate import migrate
from storage.order import start_after
from storage.settings import read_settings
from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.runs import add_run, run_job
from tests.stored import PREFIX_FIELDS, claim
from tests.studio import PROJECT, START_TIMEOUT_S, free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

NOTE_DOWN = """
window.notes = [];
window.Notification = class {
  constructor(title, options) { window.notes.push([title, options.body]); }
  static permission = 'default';
  static async requestPermission() { return (this.permission = 'granted'); }
};
Object.defineProperty(document, 'hidden', { get: () => Boolean(window.isAway) });
"""
"""In place of the system's notifications, and of a tab in the background."""


class Role:
    """The web role alone on a home folder of its own; what trainers would write is written by the test."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        given = {"PREFIX_STUDIO_HOME": str(home), "PREFIX_STUDIO_PORT": str(port)}
        settings = read_settings(given)
        migrate(settings)
        self.database: Database = open_database(settings)
        self.log = (home / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.web"],
            cwd=PROJECT,
            env={**os.environ, **given},
            stdout=self.log,
            stderr=self.log,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None
            try:
                httpx.get(f"{self.url}/healthz", trust_env=False, timeout=10.0)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the web role did not start")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.database.close()
        self.log.close()


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    role = Role(tmp_path_factory.mktemp("queue") / "home")
    try:
        role.wait()
        yield role
    finally:
        role.close()


@pytest.fixture(scope="module")
def runs(role: Role) -> dict[str, str]:
    """Two runs that are done, one under way, and one that waits for it."""
    ids = {"short": run_job(role.database, "short", 2.0)}
    ids["long"] = run_job(role.database, "long", 1.5, num_virtual_tokens=32)
    with role.database.write() as session:
        ids["night"] = add_run(session, "night").id
        ids["after"] = add_run(session, "after").id
        start_after(session, ids["after"], ids["night"])
    lease = claim(role.database)
    with role.database.write() as session:
        lease.record(session, [NewEvent("step", {"loss": 3.0}, 1)], Progress(step=62, max_steps=100, eta_s=60.0))
    return ids


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, role: Role, runs: dict[str, str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(NOTE_DOWN)
    page = context.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.goto(f"{role.url}/?tab=jobs&job={runs['short']}")
    expect(page.locator("#job-cards .ps-card")).to_have_count(4)
    expect(page.locator("#job-state")).to_contain_text("short")
    yield page
    context.close()


def test_ticked_runs_are_compared_and_the_address_keeps_them(page: Page, runs: dict[str, str]) -> None:
    for name in ("short", "long"):
        page.get_by_role("checkbox", name=f"Compare {name}").check()
        expect(page.get_by_role("checkbox", name=f"Compare {name}")).to_be_checked()
    page.get_by_role("button", name="Compare runs").click()
    expect(page.locator("#runs-curves polyline.ps-strong")).to_have_count(2)
    expect(page.locator("#runs-curves .ps-legend")).to_contain_text("long")
    expect(page.locator("#runs-settings")).to_contain_text("Length in tokens")
    expect(page.locator("#runs-settings")).not_to_contain_text("Base model")
    expect(page.locator("#runs-results")).to_contain_text("lowest")
    page.get_by_label("Settings: differences only").uncheck()
    expect(page.locator("#runs-settings")).to_contain_text("Base model")
    expect(page).to_have_url(re.compile(rf"compare={runs['short']}(,|%2C){runs['long']}"))
    screenshot(page, "queue-compare-runs")
    page.reload()
    expect(page.locator("#runs-curves polyline.ps-strong")).to_have_count(2)
    page.locator("#job-cards button", has_text="short").click()
    expect(page.locator("#job-curve polyline.ps-line-train")).to_be_visible()
    expect(page).not_to_have_url(re.compile("compare="))


def test_slider_brings_back_the_answers_of_an_earlier_step(page: Page) -> None:
    slider, shown = page.get_by_role("slider"), page.locator("#job-samples [data-frame]:visible")
    expect(shown).to_contain_text("short at 10")
    slider.press("ArrowLeft")
    expect(shown).to_contain_text("short at 5")
    expect(page.locator("#job-samples output")).to_have_text("After step 5, look 1 of 2")


def test_waiting_job_is_put_first_and_let_go(page: Page, runs: dict[str, str]) -> None:
    card = page.locator(f"#job-cards [data-target='{runs['after']}'].ps-card")
    expect(card).to_contain_text("after night has ended")
    card.click()
    expect(page.locator("#job-state")).to_contain_text("Starts once “night” has ended; that job is running now.")
    page.get_by_label("First, before all others").check()
    expect(card).to_contain_text("goes first")
    page.get_by_label("if it fails").check()
    expect(card).to_contain_text("after night has failed")
    screenshot(page, "queue-waiting")
    page.locator("#job-starts-after input").click()
    page.get_by_role("option", name="Nothing").click()
    expect(page.locator("#job-state")).to_contain_text("Waiting for its turn.")


def test_title_tells_progress_and_the_end_is_told_once_to_whoever_asked(
    page: Page, role: Role, runs: dict[str, str]
) -> None:
    expect(page).to_have_title("62 % · night")
    page.get_by_label("Tell me when a job is done").check()
    page.evaluate("window.isAway = true")
    with role.database.write() as session:
        Lease(runs["night"], 1).succeed(session, PREFIX_FIELDS)
    news = page.get_by_role("status", name="Jobs that have ended")
    expect(news).to_contain_text("night is done")
    assert page.evaluate("window.notes") == [["night is done", "Its result is in the Jobs tab."]]
    expect(page).to_have_title("night is done")
    page.evaluate("window.isAway = false")
    page.reload()
    # It was not acknowledged yet; then it is, for good.
    expect(news).to_contain_text("night is done")
    news.get_by_role("button", name="night is done").click()
    expect(page.locator("#job-state")).to_contain_text("night")
    expect(news).to_be_hidden()
    page.reload()
    expect(page.locator("#job-state")).to_contain_text("night")
    expect(page).to_have_title("Prefix Studio")
    expect(news).to_be_hidden()
