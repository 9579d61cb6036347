"""Hostile names, long answers and wrong addresses in a real browser."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from transformers import LlamaConfig, LlamaForCausalLM

from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.studio import Studio
from tests.tiny import GROUPED, tiny_tokenizer

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

IMAGE = "<img src=x onerror=\"document.title='owned'\">"
SCRIPT = "javascript:document.title='owned'//\u202e"
BASE = "deep-llama"
NUM_LAYERS = 192
"""Enough that the longest answer outlasts a slow browser."""

STOP_S = 20.0
"""Within this an answer has ended, the time of the browser's own clicks included."""


@dataclass
class Hostile:
    """What was submitted, and what it became."""

    dataset: dict[str, Any]
    prefixes: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    save_endless_base(folder / "models" / BASE)
    with Studio(folder / "home", folder / "models") as studio:
        yield studio


def save_endless_base(folder: Path) -> None:
    """A random base whose likeliest token is always a visible one, so that no answer ends before its limit."""
    torch.manual_seed(0)
    more = {"max_position_embeddings": 2048, "tie_word_embeddings": False}
    model, tokenizer = LlamaForCausalLM(LlamaConfig(num_hidden_layers=NUM_LAYERS, **GROUPED | more)), tiny_tokenizer()
    with torch.no_grad():
        for token_id, row in enumerate(model.lm_head.weight):
            if not re.fullmatch("[a-z]+", tokenizer.decode([token_id])):
                row.zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def hostile(studio: Studio) -> Hostile:
    """A table, two jobs and their prefixes whose names are markup; one prefix is named after the table's file."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([IMAGE, SCRIPT, "answer"])
    writer.writerows([f"{IMAGE} {n}", f"{SCRIPT} {n}", f"{IMAGE} said {n}"] for n in range(24))
    mapping = {"template": f"{{{IMAGE}}} {{{SCRIPT}}}", "target": "answer", "instruction": IMAGE}
    dataset = studio.api(
        "POST",
        "/datasets",
        files={"file": ("<img src=x onerror=document.title='owned'>.csv", table.getvalue().encode())},
        data={"mapping": json.dumps(mapping)},
    )
    made = Hostile(dataset)
    for name in (IMAGE, SCRIPT):
        recipe = {"num_virtual_tokens": 4, "max_steps": 2, "batch_size": 2, "eval_every": 2}
        body = {"dataset_id": dataset["id"], "base_model": BASE, "name": name, "recipe": recipe}
        job = studio.wait_for_job(studio.api("POST", "/jobs", json=body)["id"])
        assert job["status"] == "succeeded", job
        made.prefixes.append(job["prefix_id"])
    return made


@pytest.fixture
def told() -> list[str]:
    """What the browser reported: errors of scripts, refused content, requests for what the hostile markup names."""
    return []


@pytest.fixture
def blank_page(browser: Browser, told: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url) if request.url.endswith("/x") else None)
    yield page
    context.close()


@pytest.fixture
def page(blank_page: Page, studio: Studio) -> Page:
    visit(blank_page, studio.url)
    return blank_page


def visit(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator(".ps-status")).to_contain_text("memory free")


def expect_inert(page: Page, told: list[str]) -> None:
    """Nothing of the hostile text has become an element, a link, a request or a running script."""
    page.wait_for_timeout(300)
    assert page.title() == "Prefix Studio"
    assert page.locator("img[src=x], [onerror], a[href^='javascript:']").count() == 0
    assert told == []


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def test_hostile_names_stay_text_in_the_train_tab(page: Page, hostile: Hostile, told: list[str]) -> None:
    page.locator("#train-earlier input").click()
    page.get_by_role("option").first.click()
    expect(page.locator("#train-notice")).to_contain_text("<img src=x")
    expect(page.locator("#train-samples")).to_contain_text("<img src=x")
    page.get_by_text("First rows of the table").click()
    expect(page.locator("#train-preview th").first).to_have_text(IMAGE)
    expect_inert(page, told)
    screenshot(page, "hostile-1-train")
    page.locator("[data-page-action=insert]").first.click()
    expect(page.locator("#train-template textarea")).to_have_value(re.compile("img src=x.*img src=x", re.DOTALL))
    page.click("#train-continue-data")
    page.locator("#train-models .ps-card", has_text=BASE).click()
    page.click("#train-continue-base")
    expect(page.locator("#train-summary")).to_contain_text("virtual tokens")
    expect(page.locator("#train-name input, #train-name textarea")).to_have_value(re.compile("<img"))
    expect_inert(page, told)


def test_hostile_names_stay_text_in_the_jobs_tab(page: Page, hostile: Hostile, told: list[str]) -> None:
    open_tab(page, "Jobs")
    for name in (IMAGE, SCRIPT):
        page.locator("#job-cards .ps-card", has_text=name).click()
        expect(page.locator("#job-state")).to_contain_text(name)
        expect(page.locator("#job-state")).to_contain_text("Done")
        expect(page.locator("#job-details")).to_contain_text("<img src=x")
        expect_inert(page, told)
    screenshot(page, "hostile-2-jobs")


def test_hostile_names_stay_text_in_the_playground(page: Page, hostile: Hostile, told: list[str]) -> None:
    open_tab(page, "Playground")
    expect(page.get_by_label(IMAGE, exact=True)).to_be_visible()
    expect(page.get_by_label(SCRIPT, exact=True)).to_be_visible()
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("<img src=x")
    answer(page, tokens=4)
    expect(page.locator("#play-panes .ps-pane footer").nth(1)).to_contain_text(re.compile("ended|cut"))
    page.get_by_text("The prompt as the models read it").click()
    expect(page.locator("#play-prompt")).to_contain_text("<img src=x")
    expect_inert(page, told)
    screenshot(page, "hostile-3-playground")


def test_hostile_names_stay_text_in_the_prefixes_tab(page: Page, hostile: Hostile, told: list[str]) -> None:
    open_tab(page, "Prefixes")
    for name in (IMAGE, SCRIPT):
        page.locator("#prefix-cards .ps-card", has_text=name).click()
        expect(page.locator("#prefix-detail")).to_contain_text(name)
        expect(page.locator("#prefix-detail")).to_contain_text("<img src=x")
        expect_inert(page, told)
    screenshot(page, "hostile-4-prefixes")


def test_hostile_name_stays_text_in_a_refusal(page: Page, hostile: Hostile, told: list[str]) -> None:
    """A refusal that repeats the name comes as a message of Gradio, outside the page's own pieces."""
    open_tab(page, "Prefixes")
    name = page.locator("#prefix-name input, #prefix-name textarea")
    for chosen in (IMAGE, SCRIPT):
        page.locator("#prefix-cards .ps-card", has_text=chosen).click()
        expect(name).to_have_value(chosen)
    name.fill(IMAGE)
    page.click("#prefix-rename")
    refusal = page.get_by_test_id("toast-text")
    expect(refusal).to_contain_text("is the name of a prefix already")
    expect(refusal).to_contain_text("<img src=x onerror=")
    screenshot(page, "hostile-5-refusal")
    expect_inert(page, told)


def answer(page: Page, tokens: int | None = None) -> None:
    """Asks for an answer of so many tokens, or of the most that the slider gives."""
    page.get_by_text("Sampling", exact=True).click()
    number = page.get_by_label("number input for Longest answer in tokens")
    most = page.get_by_label("range slider for Longest answer in tokens").get_attribute("max")
    number.fill(str(tokens or most))
    number.press("Tab")
    page.click("#play-answer")


def begin_long_answer(page: Page) -> None:
    open_tab(page, "Playground")
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page)
    expect(page.locator("#play-panes footer").first).to_contain_text("token")


def complete(studio: Studio) -> float:
    """Seconds that a short completion takes."""
    begun = time.monotonic()
    body = {"model": BASE, "prompt": "The waiter", "max_tokens": 4}
    reply = httpx.post(f"{studio.url}/v1/completions", json=body, timeout=60.0, trust_env=False)
    assert reply.status_code == 200, reply.text
    return time.monotonic() - begun


def test_stop_ends_a_long_answer_at_once(page: Page, studio: Studio, hostile: Hostile) -> None:
    begin_long_answer(page)
    begun = time.monotonic()
    # Without the wait of `click` until nothing moves, within which a fast machine has written the whole answer.
    page.locator("#play-stop").dispatch_event("click")
    expect(page.locator("#play-answer")).to_be_visible()
    assert time.monotonic() - begun < STOP_S
    footer = page.locator("#play-panes footer").first
    stopped = footer.inner_text()
    assert int(re.match(r"\d+", stopped)[0]) < 400
    page.wait_for_timeout(1000)
    assert footer.inner_text() == stopped
    assert complete(studio) < STOP_S
    screenshot(page, "answer-stopped")


def test_closed_tab_frees_the_model_server(page: Page, studio: Studio, hostile: Hostile) -> None:
    begin_long_answer(page)
    page.close()
    assert complete(studio) < STOP_S  # requests to one base wait for each other


@pytest.mark.parametrize("query", ["tab=jobs&job=nothing", "tab=jobs&job=../../etc", f"tab={IMAGE}"])
def test_address_of_nothing_opens_a_working_page(
    blank_page: Page, studio: Studio, hostile: Hostile, told: list[str], query: str
) -> None:
    page = blank_page
    visit(page, f"{studio.url}/?{query}")
    open_tab(page, "Jobs")
    expect(page.locator("#job-cards .ps-card")).to_have_count(2)
    expect(page.locator("#job-state")).to_contain_text("Done")
    expect(page.get_by_test_id("toast-text")).to_have_count(0)
    expect_inert(page, told)
