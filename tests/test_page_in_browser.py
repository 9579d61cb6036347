"""The path of a newcomer in a real browser: bring a table, train, compare, download; and what a bad file meets."""

import csv
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.studio import Studio
from tests.tiny import tiny_base_folder

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

FOODS = ("Italian", "Chinese", "French", "Indian")
PLACES = ("riverside", "city centre")


@dataclass(frozen=True)
class Task:
    """What the newcomer brings."""

    file: Path
    base_model: str
    rows: str
    target: str
    steps: int


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def made_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "restaurants.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["facts", "notice"])
        for index in range(60):
            food, place = FOODS[index % 4], PLACES[index % 2]
            facts = f"name: Place {index}, food: {food}, area: {place}"
            writer.writerow([facts, f"Place {index} serves {food} food in the {place}."])
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    models = folder / "models"
    models.mkdir()
    tiny_base_folder(models / "tiny-llama")
    shared = Path(__file__).parents[2] / "shared" / "models" / "trial-3m"
    if shared.is_dir():
        (models / "trial-3m").mkdir()
        for file in shared.iterdir():
            (models / "trial-3m" / file.name).write_bytes(file.read_bytes())
    with Studio(folder / "home", models) as studio:
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


def bring(page: Page, file: Path) -> None:
    page.set_input_files("#train-file input[type=file]", str(file))


def choose_base(page: Page, name: str) -> None:
    page.click("#train-continue-data")
    page.locator("#train-models .ps-card", has_text=name).click()
    expect(page.locator("#train-model-state")).to_contain_text("is ready")
    page.click("#train-continue-base")


def train(page: Page, steps: int, *, is_plus: bool = False) -> None:
    expect(page.locator("#train-summary")).to_contain_text("virtual tokens")
    screenshot(page, "3-start")
    page.get_by_text("Advanced: everything here").click()
    page.locator("#train-max_steps input").fill(str(steps))
    page.locator("#train-num_virtual_tokens input").fill("16")
    page.locator("#train-num_virtual_tokens input").press("Tab")
    expect(page.locator("#train-summary")).to_contain_text("16 virtual tokens")
    if is_plus:
        page.get_by_label("Prefix tuning+").check()
        expect(page.locator("#train-summary")).to_contain_text("Only Prefix Studio can load it, not PEFT")
    name = page.locator("#train-name input").input_value()
    page.click("#train-start")
    # The tab may still show the job before, which is done.
    expect(page.locator("#job-state")).to_contain_text(name)
    expect(page.locator("#job-state")).not_to_contain_text("Waiting", timeout=120_000)


def walk(page: Page, studio: Studio, task: Task) -> Path:
    """Goes from the file to the downloaded prefix and returns the zip."""
    screenshot(page, "0-first-page")
    bring(page, task.file)
    expect(page.locator("#train-notice")).to_contain_text(task.rows)
    expect(page.locator("#train-samples mark").first).to_be_visible()
    expect(page.locator("#train-target input")).to_have_value(task.target)
    screenshot(page, "1-examples")
    choose_base(page, task.base_model)
    train(page, task.steps)
    # A tiny model may be done before the page looks again.
    expect(page.locator("#job-state")).to_contain_text(re.compile("Step|Done"), timeout=120_000)
    expect(page.locator("#job-curve polyline.ps-line-train")).to_be_visible()
    screenshot(page, "4-running")
    expect(page.locator("#job-state")).to_contain_text("Done", timeout=300_000)
    verdict = page.locator("#job-verdict")
    expect(verdict).to_contain_text("that it was not trained on")
    verdict.locator("summary", has_text="How this was measured").click()
    expect(verdict).to_contain_text("Asked were")
    screenshot(page, "5-done")
    page.click("#job-compare")
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    page.click("#play-answer")
    panes = page.locator("#play-panes .ps-pane")
    expect(panes).to_have_count(2)
    for index in (0, 1):
        expect(panes.nth(index).locator("footer")).to_contain_text(re.compile("ended by itself|cut at the limit"))
    expect(page.locator("#play-proof")).to_contain_text("base verified")
    screenshot(page, "6-compare")
    page.get_by_role("tab", name="Prefixes").click()
    expect(page.locator("#prefix-detail")).to_contain_text(task.base_model)
    expect(page.locator("#prefix-detail")).to_contain_text("Does it help?")
    screenshot(page, "7-prefixes")
    with page.expect_download() as waiting:
        page.click("#prefix-download")
    return Path(waiting.value.path())


def test_newcomer_trains_compares_and_downloads(page: Page, studio: Studio, made_table: Path) -> None:
    archive = walk(page, studio, Task(made_table, "tiny-llama", "60 rows", "notice", steps=30))
    names = [Path(name).name for name in zipfile.ZipFile(archive).namelist()]
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(names)


def test_real_table_on_a_small_real_model_walks_the_same_path(page: Page, studio: Studio, shared_folder: Path) -> None:
    task = Task(shared_folder / "data/tasks/e2e_nlg/train.csv", "trial-3m", "7,477 rows", "ref", steps=40)
    walk(page, studio, task)
    job = studio.api("GET", "/jobs")[0]
    assert job["metrics"]["validation_loss"] < 0.9 * job["metrics"]["base_loss"]


def start_of_curve(page: Page) -> tuple[str, str]:
    """Where the curve begins: how far to the right its first step lies, and the loss that was told first."""
    points = page.locator("#job-curve polyline.ps-line-train").get_attribute("points") or ""
    label = page.locator("#job-curve svg").get_attribute("aria-label") or ""
    return points.partition(",")[0], label.rpartition(" to ")[0]


def test_closing_the_tab_in_mid_training_loses_nothing(
    browser: Browser, page: Page, studio: Studio, made_table: Path
) -> None:
    """Of a prefix that only this app can load, as its download says."""
    bring(page, made_table)
    expect(page.locator("#train-notice")).to_contain_text("60 rows")
    choose_base(page, "tiny-llama")
    train(page, 20_000, is_plus=True)
    expect(page.locator("#job-state")).to_contain_text("Step", timeout=120_000)
    expect(page.locator("#job-curve polyline.ps-line-train")).to_be_visible()
    seen, seen_step = start_of_curve(page), studio.api("GET", "/jobs")[0]["step"]
    address = page.url
    page.context.close()
    while studio.api("GET", "/jobs")[0]["step"] < seen_step + 50:  # nobody looks, and the training goes on
        time.sleep(0.1)
    again = browser.new_page()
    again.goto(address)
    expect(again.locator("#job-state")).to_contain_text("Step")
    expect(again.locator("#job-cards")).to_contain_text("restaurants")
    expect(again.locator("#job-curve polyline.ps-line-train")).to_be_visible()
    assert start_of_curve(again) == seen
    again.get_by_text("Log", exact=True).click()
    expect(again.locator("#job-log")).to_contain_text("tiny-llama is loaded in")
    again.click("#job-stop")
    again.click("#job-keep")
    expect(again.locator("#job-state")).to_contain_text("Done", timeout=60_000)
    again.get_by_role("tab", name="Prefixes").click()
    expect(again.locator("#prefix-detail")).to_contain_text("PEFT and other programs cannot load it")
    expect(again.locator("#prefix-load")).to_contain_text("from openai import OpenAI")
    again.close()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", "picture.csv"),
        ("ragged.csv", b"text,label\nfine,good\nbroken,bad,extra\n", "row 2"),
        ("empty.csv", b"", "empty"),
    ],
)
def test_bad_file_meets_a_sentence_and_leaves_nothing(
    page: Page, studio: Studio, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    before = studio.api("GET", "/datasets")
    bring(page, file)
    notice = page.locator("#train-notice .ps-notice")
    expect(notice).to_contain_text(re.compile(words, re.IGNORECASE))
    expect(notice).not_to_contain_text("Traceback")
    expect(page.locator("#train-continue-data")).to_be_disabled()
    screenshot(page, f"8-bad-{name}")
    assert studio.api("GET", "/datasets") == before


def test_script_in_the_data_stays_text(page: Page, studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "hostile.csv"
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    rows = "".join(
        f'"{hostile.replace(chr(34), chr(34) * 2)} {index}","\u202eanswer {{{{x}}}} {index}"\n' for index in range(12)
    )
    file.write_text("text,label\n" + rows, encoding="utf-8")
    bring(page, file)
    expect(page.locator("#train-notice")).to_contain_text("12 rows")
    expect(page.locator("#train-samples")).to_contain_text("<img src=x")
    page.wait_for_timeout(500)
    # A training that runs has its share in the title.
    assert "owned" not in page.title()
    assert page.locator("#train-samples img").count() == 0
