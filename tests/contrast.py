"""How well the texts of a page in a browser stand out from what is behind them."""

from pathlib import Path

from playwright.sync_api import Page

SCRIPT = Path(__file__).with_name("low_contrast.js").read_text(encoding="utf-8")
FADE_MS = 300
"""Gradio fades from one colour to the next."""


def low_contrast(page: Page) -> list[str]:
    """Texts that stand out less than WCAG's level AA asks for, in both themes; disabled controls are exempt."""
    found = []
    for theme in ("light", "dark"):
        if page.evaluate("document.body.classList.contains('dark')") != (theme == "dark"):
            page.click("[data-page-action=theme]")
        page.wait_for_timeout(FADE_MS)
        found += [f"{theme}: {each}" for each in page.evaluate(SCRIPT)]
    page.click("[data-page-action=theme]")
    return found
