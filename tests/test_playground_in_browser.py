"""The Playground in a real browser: three columns, tokens, dial, time, blind votes, chat, saving and reopening."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import EXPECT_TIMEOUT_MS, open_browser, screenshot
from tests.busy_model_server import BusyModelServer
from tests.contrast import low_contrast
from tests.playground_home import BASE, FIRST, PAUSED, SECOND, fill_home
from tests.studio import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

INSTRUCTION = "Base with the written instruction"
JOINS = "**/queue/join*"
"""Where the page tells Python of an event."""

ENDED = re.compile("ended by itself|cut at the limit")
SIGNS = re.compile("[↵·]")
"""What stands among marked tokens for a line end, and for a token that is a part of a character."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("playground")
    fill_home(folder / "home", folder / "models")
    with Studio(folder / "home", folder / "models") as studio:
        yield studio


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def told() -> list[str]:
    """What the browser reported: errors of scripts, refused content, requests for what the hostile name asks for."""
    return []


@pytest.fixture
def page(browser: Browser, studio: Studio, told: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url) if request.url.endswith("/x") else None)
    page.goto(f"{studio.url}/?tab=playground")
    expect(page.locator("#play-columns")).to_contain_text("Base, untouched")
    yield page
    context.close()


def choose(page: Page, *names: str) -> None:
    """Chooses these columns beside the untouched base; the first of the home's prefixes stood there before."""
    page.locator("#play-columns input").click()
    for name in (SECOND[:20], *names):
        page.get_by_role("option", name=name).click()
    page.keyboard.press("Tab")
    if FIRST in names:
        expect(page.locator("#play-time input")).to_be_visible()


def answer(page: Page, columns: int) -> None:
    """Asks and waits until all columns have ended and are explained."""
    page.click("#play-answer")
    finished(page, columns)


def finished(page: Page, columns: int) -> None:
    panes = page.locator("#play-panes .ps-pane")
    expect(panes).to_have_count(columns)
    for index in range(columns):
        expect(panes.nth(index).locator("footer")).to_contain_text(ENDED)
    expect(page.locator("#play-answer")).to_be_visible()


def texts(page: Page) -> list[str]:
    return page.locator("#play-panes .ps-pane > div").all_inner_texts()


def test_three_columns_answer_with_proof_tokens_and_dial(page: Page, told: list[str]) -> None:
    choose(page, FIRST, INSTRUCTION)
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page, 3)
    expect(page.locator("#play-proof")).to_contain_text("base verified")
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text("prefix active mean KL over the answer")
    expect(page.locator("#play-panes")).to_contain_text("tokens/s")
    detail = page.locator("#play-detail")
    expect(detail).to_contain_text("Base model, after the same words")
    token = page.locator("#play-panes .ps-token[data-kind]").nth(2)
    token.click()
    expect(detail).to_contain_text("Token 3 of")
    expect(detail.locator("li")).to_have_count(20)
    token.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(detail).to_contain_text("Token 4 of")
    assert low_contrast(page) == []
    screenshot(page, "playground-1-columns")
    page.locator("#play-dial").press("Home")
    expect(page.locator("#play-strength")).to_contain_text("0 %: the base's own row")
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text("at 0 %")
    finished(page, 3)
    base, prefixed, _ = texts(page)
    assert SIGNS.sub("", prefixed).split() == base.split()
    assert told == []


class HeldEvents:
    """Keeps what the page tells Python under way until `release`, as a busy machine does."""

    def __init__(self, page: Page) -> None:
        self.page, self.routes, self.is_released = page, list[Route](), False
        page.route(JOINS, self._take)

    def _take(self, route: Route) -> None:
        # One that comes between the release of the last and the end of the holding would else be held for ever.
        route.continue_() if self.is_released else self.routes.append(route)

    def release(self) -> None:
        """Lets the held ones go, and then all that follow."""
        self.is_released = True
        for route in self.routes:
            route.continue_()
        self.page.unroute(JOINS)


def test_choice_that_is_made_while_the_last_is_read_counts(page: Page) -> None:
    held = HeldEvents(page)
    page.locator("#play-columns input").click()
    with page.expect_request(JOINS):
        page.get_by_role("option", name=SECOND[:20]).click()
    page.get_by_role("option", name=FIRST).click()
    held.release()
    expect(page.locator("#play-time input")).to_be_visible()


def test_token_that_is_chosen_while_the_last_is_read_counts(page: Page) -> None:
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page, 2)
    held = HeldEvents(page)
    tokens = page.locator("#play-panes .ps-token[data-kind]")
    with page.expect_request(JOINS):
        tokens.nth(1).click()
    tokens.nth(3).click()
    page.wait_for_timeout(100)
    held.release()
    expect(page.locator("#play-detail")).to_contain_text("Token 4 of")


def test_card_of_a_job_that_is_pressed_while_the_last_is_read_counts(page: Page, studio: Studio) -> None:
    for job in studio.api("GET", "/jobs"):
        for number in range(2 if job["name"] == PAUSED else 0):
            copy = studio.api("POST", f"/jobs/{job['id']}/duplicate", json={"name": f"copy {number}"})
            studio.api("POST", f"/jobs/{copy['id']}/pause")
    page.get_by_role("tab", name="Jobs", exact=True).click()
    cards = page.locator("#job-cards .ps-card")
    expect(cards).to_have_count(3)
    cards.filter(has_text=PAUSED).click()
    expect(page.locator("#job-state")).to_contain_text(PAUSED)
    held = HeldEvents(page)
    for number in range(2):
        cards.filter(has_text=f"copy {number}").click()
    page.wait_for_timeout(100)
    held.release()
    expect(page.locator("#job-state")).to_contain_text("copy 1")
    page.wait_for_timeout(2500)
    expect(page.locator("#job-state")).to_contain_text("copy 1")


def test_training_that_is_not_over_is_asked_from_its_page(page: Page) -> None:
    page.get_by_role("tab", name="Jobs", exact=True).click()
    page.locator("#job-cards .ps-card", has_text=PAUSED).click()
    expect(page.locator("#job-state")).to_contain_text(PAUSED)
    page.get_by_role("button", name="Ask it now").click()
    expect(page.locator("#play-columns")).to_contain_text(f"{PAUSED} (in training)")
    expect(page.locator("#play-time output")).to_contain_text("step 20")
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page, 2)
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text("step 20")
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text("prefix active")


def test_server_that_takes_no_more_requests_is_told_and_asked_again(page: Page, studio: Studio) -> None:
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    address = studio.home / "run" / "inference.json"
    told = address.read_text()
    try:
        with BusyModelServer(begins=True) as server:
            server.announce(address)
            page.click("#play-answer")
            expect(page.locator("#play-panes")).to_contain_text("50 requests are open for")
            screenshot(page, "playground-6-busy")
    finally:
        address.write_text(told)
    page.get_by_role("button", name="Try again").click()
    finished(page, 2)


def test_dial_that_moves_on_while_the_last_stop_is_read_counts(page: Page) -> None:
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    held = HeldEvents(page)
    for _ in range(2):
        page.locator("#play-dial").press("ArrowLeft")
    page.wait_for_timeout(300)
    held.release()
    answer(page, 2)
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text("at 90 %")


def test_time_slider_and_stages_answer_with_earlier_states(page: Page) -> None:
    choose(page, FIRST)
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page, 2)
    page.locator("#play-moment").press("ArrowLeft")
    expect(page.locator("#play-time output")).to_contain_text("step 40")
    expect(page.locator("#play-panes .ps-pane").nth(1)).to_contain_text(f"{FIRST}, step 40")
    finished(page, 2)
    page.get_by_role("button", name="Show its stages side by side").click()
    finished(page, 5)
    titles = page.locator("#play-panes header").all_inner_texts()
    assert [title.splitlines()[0] for title in titles] == [BASE, *(f"{FIRST}, step {n}" for n in (0, 20, 40)), FIRST]
    screenshot(page, "playground-2-stages")


def test_saved_comparison_reopens_by_its_address_and_downloads(page: Page, studio: Studio, told: list[str]) -> None:
    page.click("#play-random")
    expect(page.locator("#play-expected")).to_contain_text("The answer in the data")
    answer(page, 2)
    page.locator("#play-name input, #play-name textarea").fill("<img src=x onerror=alert(1)>")
    page.click("#play-save")
    expect(page.locator("#play-kept")).to_contain_text("The address of this page reopens it")
    expect(page).to_have_url(re.compile("tab=playground.*comparison=[0-9a-f]{16}"))
    before, asked = texts(page), page.locator("#play-field-0 textarea").input_value()
    with page.expect_download() as waiting:
        page.locator("#play-kept").get_by_text("Markdown").click()
    assert "mean KL to the base" in Path(waiting.value.path()).read_text()
    page.reload()
    finished(page, 2)
    assert texts(page) == before
    expect(page.locator("#play-field-0 textarea")).to_have_value(asked)
    expect(page.locator("#play-detail")).to_contain_text("With the prefix")
    page.get_by_role("tab", name="Saved", exact=True).click()
    cards = page.locator("#saved-cards .ps-kept")
    expect(cards).to_have_count(1)
    with page.expect_download() as waiting:
        cards.get_by_text("JSON").click()
    kept = json.loads(Path(waiting.value.path()).read_text())
    assert [column["model"] for column in kept["columns"]] == [BASE, SECOND]
    screenshot(page, "playground-3-saved")
    cards.get_by_text("Delete…").click()
    cards.get_by_text("Delete for good").click()
    expect(page.locator("#saved-cards")).to_contain_text("Nothing saved yet")
    assert studio.api("GET", "/comparisons") == []
    assert page.locator("img[src=x], [onerror]").count() == 0
    assert told == []


def vote(page: Page, number: int) -> str:
    """Lets a pair answer, prefers one of them, and tells who they were."""
    page.click("#blind-next")
    expect(page.locator("#blind-reveal")).to_have_text("")
    expect(page.locator("#blind-a")).to_be_enabled()
    shown = page.locator("#blind-panes").inner_html()
    assert FIRST not in shown
    assert BASE not in shown
    page.click("#blind-a" if number % 2 else "#blind-b")
    expect(page.locator("#blind-reveal")).to_contain_text("your choice")
    names = page.locator("#blind-reveal li strong").all_inner_texts()
    return " and ".join(sorted(names))


def test_blind_vote_hides_the_names_and_lets_every_pair_meet(page: Page, studio: Studio) -> None:
    choose(page, FIRST, INSTRUCTION)
    page.get_by_role("tab", name="Blind vote", exact=True).click()
    expect(page.locator("#blind-rules")).to_contain_text("the pair with the fewest votes comes next")
    expect(page.locator("#blind-tally")).to_contain_text("No votes yet")
    expect(page.locator("#blind-a")).to_be_disabled()
    assert len({vote(page, number) for number in range(3)}) == 3
    expect(page.locator("#blind-tally")).to_contain_text("95 % interval")
    expect(page.locator("#blind-tally")).to_contain_text("All columns")
    expect(page.locator("#blind-tally table").first.locator("tbody tr")).to_have_count(3)
    expect(page.locator("#blind-b")).to_be_disabled()
    assert low_contrast(page) == []
    screenshot(page, "playground-4-blind")
    pairs = studio.api("GET", "/comparisons/votes")
    assert [(sum(pair["wins"]), pair["ties"]) for pair in pairs] == [(1, 0)] * 3


def test_chat_keeps_a_conversation_for_each_column(page: Page) -> None:
    page.get_by_label("Chat", exact=True).click()
    for number, message in enumerate(("Hello there", "And again")):
        page.locator("#play-message textarea").fill(message)
        answer(page, 2)
        expect(page.locator("#play-panes .ps-turn")).to_have_count(2 + 4 * number)
    expect(page.locator("#play-message textarea")).to_have_value("")
    screenshot(page, "playground-5-chat")
    page.click("#play-clear")
    expect(page.locator("#play-panes")).to_contain_text("Nothing compared yet")


def test_prompt_that_is_too_long_is_told_in_a_sentence(page: Page) -> None:
    page.get_by_label("Free text", exact=True).click()
    page.locator("#play-raw textarea").fill("soup " * 400)
    page.click("#play-answer")
    expect(page.locator("#play-panes .ps-bad")).to_contain_text("context")
    expect(page.locator("#play-answer")).to_be_visible()


def test_comparison_that_is_gone_is_told_in_a_sentence(page: Page, studio: Studio) -> None:
    page.goto(f"{studio.url}/?tab=playground&comparison=0000000000000000")
    expect(page.locator("#play-panes")).to_contain_text("It may have been deleted")
    expect(page.locator("#play-columns")).to_contain_text("Base, untouched")
