"""A model of the hub in a real browser: added by its id, fetched with visible progress, stopped, fetched again."""

import re
import threading
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect
from transformers import LlamaConfig, LlamaForCausalLM

from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.hub_server import HubServer
from tests.studio import Studio
from tests.tiny import GROUPED, tiny_base_folder, tiny_tokenizer

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

HUB_ID = "someone/wide-llama"
HALFWAY = re.compile(r"Downloading someone/wide-llama: 1\d(\.\d)? MB of 2\d(\.\d)? MB")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub whose one model is large enough that its weights come in more than one piece (10 MB each)."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    wide = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **{**GROUPED, "intermediate_size": 32_000}))
    wide.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with HubServer(HUB_ID, {**files, "README.md": b"---\nlicense: mit\n---\n"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    tiny_base_folder(folder / "models" / "tiny-llama")
    with Studio(folder / "home", folder / "models", **environment) as studio:
        yield studio


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """The page at step 2, with a built-in data set chosen and the list of the hub unfolded."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.goto(studio.url)
    page.locator("#train-examples .ps-card").first.click()
    expect(page.locator("#train-continue-data")).to_be_enabled()
    page.click("#train-continue-data")
    expect(page.locator("#train-models .ps-card", has_text="tiny-llama")).to_be_visible()
    page.get_by_text("More models, to download").click()
    yield page
    page.close()


def ask_for(page: Page, hub_id: str) -> None:
    page.locator("#train-hub-id input, #train-hub-id textarea").first.fill(hub_id)
    page.click("#train-check-hub")


def model_state(page: Page) -> Locator:
    return page.locator("#train-model-state")


def test_model_added_by_its_id_is_fetched_stopped_and_fetched_again(page: Page, hub: HubServer) -> None:
    ask_for(page, HUB_ID)
    expect(model_state(page)).to_contain_text(f"{HUB_ID} is not on this machine yet")
    expect(page.get_by_text(f"{HUB_ID} is in the list.")).to_be_visible()
    expect(page.locator("#train-continue-base")).to_be_disabled()
    screenshot(page, "hub-1-in-the-list")

    hub.stall = threading.Event()
    page.click("#train-download")
    expect(model_state(page)).to_contain_text(HALFWAY)
    width = page.locator("#train-model-state .ps-progress i").evaluate("bar => parseFloat(bar.style.width)")
    assert 30 < width < 90
    screenshot(page, "hub-2-halfway")

    page.click("#train-cancel-download")
    hub.stall.set()
    expect(model_state(page)).to_contain_text("not on this machine yet")
    expect(page.locator("#train-cancel-download")).to_be_hidden()
    expect(page.locator("#train-continue-base")).to_be_disabled()

    hub.stall = None
    page.click("#train-download")
    expect(model_state(page)).to_contain_text(f"{HUB_ID} is ready")
    expect(page.locator("#train-models .ps-card[aria-pressed=true]")).to_contain_text("licence mit")
    screenshot(page, "hub-3-ready")
    page.click("#train-continue-base")
    expect(page.locator("#train-summary")).to_contain_text("virtual tokens")


@pytest.mark.parametrize(
    ("hub_id", "words"),
    [
        ("someone/absent", "The hub has no model someone/absent"),
        ("../../x", "is no hub id"),
        ("/etc", "is no hub id"),
        ("someone/wide-llama@main", "names a revision"),
        ("https://example.com/a", "is an address"),
        ("", "is no hub id"),
    ],
)
def test_id_that_cannot_be_used_meets_a_sentence(page: Page, studio: Studio, hub_id: str, words: str) -> None:
    before = [model["name"] for model in studio.api("GET", "/base-models")]
    ask_for(page, hub_id)
    notice = page.locator(".ps-notice.ps-bad")
    expect(notice).to_contain_text(words)
    expect(notice).not_to_contain_text("Traceback")
    expect(page.locator("#train-continue-base")).to_be_enabled()
    if words.startswith("The hub"):
        screenshot(page, "hub-4-refused")
    assert [model["name"] for model in studio.api("GET", "/base-models")] == before
    assert "Traceback" not in studio.tail()
