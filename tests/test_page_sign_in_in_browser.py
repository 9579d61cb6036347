"""The access token in a real browser: a form for whoever is not signed in, then the whole page."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import EXPECT_TIMEOUT_MS, open_browser
from tests.studio import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "correct horse battery staple <&>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with Studio(tmp_path_factory.mktemp("studio") / "home", PREFIX_STUDIO_TOKEN=TOKEN) as studio:
        yield studio


@pytest.fixture
def page(browser: Browser, studio: Studio) -> Iterator[Page]:
    """The address of the Jobs tab, as somebody opens it who is not signed in."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.goto(f"{studio.url}/?tab=jobs")
    yield page
    context.close()


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_stranger_sees_the_form_and_nothing_else(page: Page) -> None:
    expect(page.get_by_label("Access token")).to_be_focused()
    assert page.locator("#tabs").count() == 0
    assert page.context.cookies() == []
    assert TOKEN not in page.content()


def test_wrong_token_is_refused_with_a_sentence(page: Page) -> None:
    sign_in(page, "a guess")
    expect(page.get_by_role("alert")).to_have_text("That is not the access token of this server.")
    expect(page.get_by_label("Access token")).to_have_value("")
    assert page.context.cookies() == []


def test_right_token_opens_the_place_that_was_asked_for_and_its_events_work(
    page: Page, studio: Studio, tmp_path: Path
) -> None:
    sign_in(page, TOKEN)
    expect(page.get_by_role("tab", name="Jobs")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".ps-status")).to_contain_text("memory free")
    expect(page.locator("#job-cards")).to_contain_text("No job yet")
    page.get_by_role("tab", name="Train").click()
    table = tmp_path / "greetings.csv"
    table.write_text("name,greeting\n" + "".join(f"Ada {n},Good day Ada {n}.\n" for n in range(20)))
    page.set_input_files("#train-file input[type=file]", str(table))
    expect(page.locator("#train-notice")).to_contain_text("20 rows")
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert TOKEN not in cookie["value"]
    page.reload()
    expect(page.locator(".ps-status")).to_contain_text("memory free")


@pytest.mark.parametrize("path", ["/", "/api/v1/datasets", "/v1/models", "/gradio_api/info", "/config", "/healthz"])
def test_program_without_the_token_gets_401(studio: Studio, path: str) -> None:
    answer = httpx.get(f"{studio.url}{path}", trust_env=False)
    assert answer.status_code == 401
    assert "access token is needed" in answer.text


def test_form_fits_a_phone_in_both_themes(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(page.get_by_role("button", name="Sign in")).to_be_in_viewport()
