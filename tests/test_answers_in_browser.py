"""A table answered on a prefix's page, and many held-out rows in the playground, in a real browser."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.migrate import migrate
from storage.settings import read_settings
from tests.answering_bench import AnsweringRole
from tests.browser import open_browser, screenshot
from tests.studio import Studio
from tests.tiny import tiny_base_folder

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]

PATIENCE_MS = 120_000
ROWS = [("1", "Italian"), ("2", "=HYPERLINK(1)"), ("3", '<img src=x onerror="window.hit = 1">')]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio that has a prefix with its dataset already."""
    folder = tmp_path_factory.mktemp("studio")
    settings = read_settings({"PREFIX_STUDIO_HOME": str(folder / "home")})
    migrate(settings)
    database = open_database(settings)
    AnsweringRole(settings, database, ArtifactStore(settings), tiny_base_folder(folder / "models" / "tiny"))
    database.close()
    with Studio(folder / "home", folder / "models") as studio:
        yield studio


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield page
    page.close()


def table_file(folder: Path, header: tuple[str, str]) -> Path:
    path = folder / "new dishes.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *ROWS])
    return path


def downloaded(page: Page, selector: str, folder: Path) -> list[dict[str, str]]:
    """Presses a link and reads the CSV file that comes."""
    with page.expect_download() as waiting:
        page.locator(selector).first.click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_dropped_table_is_answered_and_downloaded(page: Page, studio: Studio, tmp_path: Path) -> None:
    page.goto(f"{studio.url}/?tab=prefixes")
    page.locator("#prefix-cards .ps-card", has_text="Food").click()
    expect(page.locator("#prefix-detail")).to_contain_text("Food")
    page.locator("#answer-file input[type=file]").set_input_files(table_file(tmp_path, ("id", "dish")))
    told = page.locator("#answer-told")
    expect(told).to_contain_text("new dishes.csv: 3 rows, 2 columns")
    expect(told).to_contain_text("It needs food")
    screenshot(page, "answers-1-column-asked-for")
    page.locator("#answer-column-0 input").click()
    page.get_by_role("option", name="dish").click()
    page.click("#answer-start")
    answered = page.locator("#answer-tables tr", has_text="new dishes.csv")
    expect(answered).to_contain_text("done")
    screenshot(page, "answers-2-done")
    rows = downloaded(page, "#answer-tables a:has-text('CSV')", tmp_path)
    assert [(row["id"], row["dish"].removeprefix("'")) for row in rows] == ROWS
    assert rows[1]["dish"] == "'=HYPERLINK(1)"
    assert all("answer" in row for row in rows)
    page.get_by_role("tab", name="Jobs").click()
    expect(page.locator("#job-cards .ps-card").first).to_contain_text("Answering new dishes.csv")
    expect(page.locator("#job-state")).to_contain_text("Done: 3 rows answered.")
    expect(page.locator("#job-curve svg")).to_have_count(0)
    screenshot(page, "answers-3-in-jobs")
    assert page.evaluate("window.hit") is None


def test_held_out_rows_are_answered_by_all_columns_and_downloaded(page: Page, studio: Studio, tmp_path: Path) -> None:
    page.goto(f"{studio.url}/?tab=playground")
    page.get_by_role("tab", name="Many rows").click()
    expect(page.locator("#many-totals")).to_contain_text("No rows answered yet")
    page.click("#many-answer")
    totals = page.locator("#many-totals")
    expect(page.locator("#many-download")).to_be_visible()
    expect(totals).to_contain_text("held-out rows")
    expect(totals.locator("tbody tr")).to_have_count(2)
    expect(page.locator("#many-table")).to_contain_text("food: ")
    screenshot(page, "many-rows")
    rows = downloaded(page, "#many-download", tmp_path)
    assert len(rows) > 4
    assert all(row["prompt"].startswith("food: ") and row["expected"] for row in rows)
    assert len(rows[0]) == 7
