"""A newcomer's first minutes: nothing but the project, no network, three clicks, a prefix that visibly helps."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from storage.bases.catalog import STARTER_NAME
from tests.browser import open_browser, screenshot
from tests.studio import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

LARGEST_QUEUE = 0.2
"""Share of the largest class among the held-out rows: what guessing reaches."""


def test_an_example_and_the_built_in_base_give_a_helping_prefix_without_a_setting(tmp_path: Path) -> None:
    with Studio(tmp_path / "home") as studio, open_browser() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(studio.url)
        page.locator("#train-examples .ps-card", has_text="Support messages").click()
        expect(page.locator("#train-samples mark").first).to_be_visible()
        page.click("#train-continue-data")
        page.locator("#train-models .ps-card", has_text=STARTER_NAME).click()
        page.click("#train-continue-base")
        expect(page.locator("#train-summary")).to_contain_text("virtual tokens")
        page.click("#train-start")
        expect(page.locator("#job-state")).to_contain_text("Done", timeout=480_000)
        expect(page.locator("#job-verdict")).to_contain_text("it helps")
        screenshot(page, "first-result")
        (job,) = studio.api("GET", "/jobs")
    comparison = job["metrics"]["evaluation"]
    right = {arm: sides["metrics"]["accuracy"]["value"] for arm, sides in comparison["arms"].items()}
    assert comparison["num_rows"] == 120
    assert right.pop("prefix") >= max(*right.values(), LARGEST_QUEUE) + 0.3
    assert {verdict["verdict"] for verdict in comparison["verdicts"].values()} == {"helps"}
