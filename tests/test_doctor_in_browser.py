"""The doctor in a real browser: from a dirty file through its findings and repairs to a started job."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.studio import Studio
from tests.tiny import tiny_base_folder

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = ("question", "complaint", "praise")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    (folder / "models").mkdir()
    tiny_base_folder(folder / "models" / "tiny-llama")
    with Studio(folder / "home", folder / "models") as studio:
        yield studio


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.goto(studio.url)
    expect(page.locator(".ps-status")).to_contain_text("memory free")
    yield page
    context.close()


def table(folder: Path, name: str, rows: list[list[str]], header: tuple[str, ...] = ("text", "kind")) -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def dirty_rows() -> list[list[str]]:
    rows = [[f"message number {index}", KINDS[index % 3]] for index in range(60)]
    rows[4][1] = ""
    rows[7][0] = "the cafÃ© opens"
    rows[9][1] = "Question"
    rows[20] = list(rows[19])
    rows.append(["the river " * 400, "praise"])
    rows.append([f"bell \x07 {HOSTILE}", f"praise{HOSTILE}"])
    return rows


def finding(page: Page, code: str, within: str = "#train-findings") -> Locator:
    return page.locator(f"{within} .ps-finding[data-code={code}]")


def test_dirty_file_is_mended_and_trained_on(page: Page, studio: Studio, tmp_path: Path) -> None:
    page.set_input_files("#train-file input[type=file]", str(table(tmp_path, "mail.csv", dirty_rows())))
    expect(page.locator("#train-notice")).to_contain_text("62 rows")
    found = page.locator("#train-findings")
    for words in (
        "1 row without an answer in “kind” will be left out. It is row 5.",
        "It is row 8.",
        "“Question” and “question”",
        "It is row 21.",
    ):
        expect(found).to_contain_text(words)
    page.locator("#train-findings summary").first.click()
    screenshot(page, "doctor-1-findings")
    page.get_by_label("Show spaces, tabs, line ends").check()
    expect(page.locator("#train-samples .ps-sign").first).to_be_visible()

    page.get_by_role("button", name="Repair all that is safe").click()
    difference = page.locator("#train-findings .ps-difference")
    expect(difference).to_contain_text("62 rows become 60.")
    expect(difference).to_contain_text("the café opens")
    screenshot(page, "doctor-2-difference")
    dataset = studio.api("GET", "/datasets")[0]
    assert dataset["version"] == 1
    page.get_by_role("button", name="Do it").click()
    expect(page.locator("#train-notice")).to_contain_text("60 rows")
    expect(finding(page, "rare_classes")).to_be_visible()
    expect(page.get_by_label("Show spaces, tabs, line ends")).not_to_be_checked()
    expect(finding(page, "empty_target")).to_have_count(0)
    expect(page.locator("#train-instruction textarea")).not_to_have_value("Question")

    page.get_by_text("Versions of this data").click()
    versions = page.locator("#train-versions li")
    expect(versions).to_have_count(2)
    screenshot(page, "doctor-3-versions")
    with page.expect_download() as waiting:
        versions.first.get_by_text("Download CSV").click()
    mended = list(csv.reader(io.StringIO(Path(waiting.value.path()).read_text("utf-8"), newline="")))
    assert (mended[0], len(mended)) == (["text", "kind"], 61)
    assert mended[7] == ["the café opens", "complaint"]
    versions.nth(1).get_by_text("Go back to this").click()
    expect(page.locator("#train-notice")).to_contain_text("62 rows")
    versions.nth(1).get_by_text("Go back to this").click()
    expect(page.locator("#train-notice")).to_contain_text("60 rows")

    page.click("#train-continue-data")
    page.locator("#train-models .ps-card", has_text="tiny-llama").click()
    expect(page.locator("#train-model-state")).to_contain_text("is ready")
    page.click("#train-continue-base")
    too_long = finding(page, "over_context", "#train-lengths")
    # The tokens are counted by a process of its own, which has to start.
    expect(too_long).to_contain_text("1 row is longer than the", timeout=150_000)
    screenshot(page, "doctor-4-lengths")
    too_long.get_by_role("button", name="Leave these rows out").click()
    page.locator("#train-lengths").get_by_role("button", name="Do it").click()
    expect(page.locator("#train-lengths")).to_contain_text("Every row fits into the context of tiny-llama")
    page.get_by_text("Advanced: everything here").click()
    page.locator("#train-max_steps input").fill("20")
    page.locator("#train-max_steps input").press("Tab")
    page.click("#train-start")
    expect(page.locator("#job-state")).to_contain_text("Done", timeout=240_000)
    (job,) = studio.api("GET", "/jobs")
    described = studio.api("GET", f"/jobs/{job['id']}")
    dataset = studio.api("GET", f"/datasets/{dataset['id']}")
    assert (described["dataset_version"], described["dataset_hash"]) == (dataset["version"], dataset["content_hash"])
    expect(page.locator("body")).to_contain_text(f"version {dataset['version']}")
    expect(page).to_have_title("Prefix Studio")
    assert page.locator("img[src=x]").count() == 0


def test_what_blocks_is_said_beside_the_closed_button(page: Page, tmp_path: Path) -> None:
    rows = [[f"message {index}", "", KINDS[index % 3]] for index in range(20)]
    path = table(tmp_path, "unanswered.csv", rows, header=("text", "answer", "kind"))
    page.set_input_files("#train-file input[type=file]", str(path))
    expect(page.locator("#train-notice")).to_contain_text("20 rows")
    page.locator("#train-target input").click()
    page.get_by_role("option", name="answer").click()
    expect(page.locator("#train-gate")).to_contain_text("0 rows have an answer in “answer”")
    expect(page.locator("#train-continue-data")).to_be_disabled()
    screenshot(page, "doctor-5-blocked")
    page.locator("#train-target input").click()
    page.get_by_role("option", name="kind").click()
    expect(page.locator("#train-continue-data")).to_be_enabled()
    expect(page.locator("#train-gate")).to_have_text("")


def test_a_reading_is_corrected_in_the_page(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("ham;hello to you\nspam;win it now\n" * 10)
    page.set_input_files("#train-file input[type=file]", str(path))
    expect(page.locator("#train-notice")).to_contain_text("20 rows")
    page.get_by_text("How the file is read").click()
    expect(page.locator("#train-delimiter input")).to_have_value("Automatic: Semicolon")
    page.locator("#train-header input").click()
    page.get_by_role("option", name="Yes", exact=True).click()
    expect(page.locator("#train-notice")).to_contain_text("19 rows")
    screenshot(page, "doctor-6-reading")
    page.locator("#train-delimiter input").click()
    page.get_by_role("option", name="Comma", exact=True).click()
    # What cannot be read so is said at the edge of the page, and the data stays as it was.
    expect(page.get_by_text("has only one column").first).to_be_visible()
    expect(page.locator("#train-notice")).to_contain_text("19 rows")


def test_rows_that_fit_no_column_are_left_out_on_request(page: Page, studio: Studio, tmp_path: Path) -> None:
    rows = [[f"message {index}", KINDS[index % 3]] for index in range(20)]
    rows[6].append("surplus")
    path = table(tmp_path, "ragged.csv", rows)
    before = studio.api("GET", "/datasets")
    page.set_input_files("#train-file input[type=file]", str(path))
    expect(page.locator("#train-notice")).to_contain_text("Row 7 of ragged.csv (line 8) has 3 fields; expected 2")
    expect(page.locator("#train-continue-data")).to_be_disabled()
    assert studio.api("GET", "/datasets") == before
    page.locator("#train-ragged input").click()
    page.get_by_role("option", name="Leave out and count").click()
    page.set_input_files("#train-file input[type=file]", str(path))
    expect(page.locator("#train-notice")).to_contain_text("19 rows")
    expect(finding(page, "ragged_rows")).to_contain_text("It is row 7.")


def test_a_large_file_shows_its_first_rows_while_it_is_read(page: Page, tmp_path: Path) -> None:
    rows = [[f"message number {index} " + "and more words " * 12, KINDS[index % 3]] for index in range(20_000)]
    page.set_input_files("#train-file input[type=file]", str(table(tmp_path, "large.csv", rows)))
    expect(page.locator("#train-notice")).to_contain_text("Reading large.csv")
    expect(page.locator("#train-notice table")).to_contain_text("message number 0")
    expect(page.locator("#train-findings")).to_contain_text("Nothing odd was found in 20,000 rows", timeout=60_000)


def test_a_reading_that_fails_leaves_the_fields_to_set_it_right(page: Page, tmp_path: Path) -> None:
    rows = [[f"message number {index}", KINDS[index % 3]] for index in range(30)]
    page.set_input_files("#train-file input[type=file]", str(table(tmp_path, "fine.csv", rows)))
    expect(page.locator("#train-notice")).to_contain_text("30 rows")
    page.get_by_text("How the file is read").click()
    encoding = page.locator("#train-encoding input")
    for name in ("utf-16", "latin-1"):
        encoding.click()
        encoding.fill(name)
        page.keyboard.press("Enter")
        if name == "utf-16":
            expect(page.get_by_text("fine.csv is not text in the encoding utf-16.").first).to_be_visible()
    expect(page.locator("#train-notice")).to_contain_text("CSV in LATIN-1")
