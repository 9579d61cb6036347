"""A real browser for tests: Chromium of the system, driven by Playwright, and screenshots of what it shows."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
EXPECT_TIMEOUT_MS = 60_000
"""What a page may take while other processes have the cores; no test says by it how fast something is."""

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Starts the system's Chromium; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium on this machine (Debian's package chromium)")
    expect.set_options(timeout=EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def screenshot(page: Page, name: str) -> None:
    """Saves what the page shows at both widths and in both themes, where PREFIX_STUDIO_SCREENSHOTS names a folder."""
    folder = os.environ.get("PREFIX_STUDIO_SCREENSHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        if page.evaluate("document.body.classList.contains('dark')") != (theme == "dark"):
            page.click("[data-page-action=theme]")
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(250)
            page.screenshot(path=str(Path(folder) / f"{name}-{size}-{theme}.png"), full_page=size == "phone")
    page.click("[data-page-action=theme]")
    page.set_viewport_size(dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
