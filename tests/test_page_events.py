"""Which of the page's events are dropped, put off or answered side by side: what a user did last has to count."""

import asyncio
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from app.context import AppContext
from app.ui.page import Page
from storage.artifacts import ArtifactStore
from storage.database import open_database
from storage.migrate import migrate
from storage.settings import read_settings

CHOICES = ("select", "input", "change")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    settings = read_settings({"PREFIX_STUDIO_HOME": str(tmp_path_factory.mktemp("home"))})
    migrate(settings)
    context = AppContext(settings, open_database(settings), ArtifactStore(settings))
    yield asyncio.run(assembled(context))
    context.readers.close()
    context.database.close()


async def assembled(context: AppContext) -> Page:
    """The page, made in a running loop: outside of one Gradio opens a loop for each lock and leaves it open."""
    return Page(context)


def events(page: Page, *names: str) -> list[Any]:
    """The page's events of these kinds; the opening of a tab is no choice, it shows what there is in any case."""
    blocks = page.blocks
    return [
        event
        for event in blocks.fns.values()
        if any(name in names and not isinstance(blocks.blocks.get(of), gr.Tab) for of, name in event.targets)
    ]


def told(event: Any) -> str:
    return f"{event.api_name} on {event.targets}"


def test_choice_that_is_made_while_the_one_before_is_read_is_never_dropped(page: Page) -> None:
    assert [told(event) for event in events(page, *CHOICES) if event.trigger_mode == "once"] == []


def test_choices_that_are_all_answered_are_answered_one_after_the_other(page: Page) -> None:
    apart = [event for event in events(page, *CHOICES) if event.trigger_mode == "multiple"]
    assert [told(event) for event in apart if event.concurrency_limit != 1] == []


def test_events_that_show_the_summary_of_a_training_are_answered_one_after_the_other(page: Page) -> None:
    summary = page.train.start.summary
    shown_by = [event for event in page.blocks.fns.values() if summary in event.outputs]
    assert len(shown_by) == 3
    assert {(event.concurrency_id, event.concurrency_limit) for event in shown_by} == {("train-summary", 1)}


def test_fields_of_one_form_are_read_by_one_event(page: Page) -> None:
    for shown in (page.train.start.trained, page.train.data.samples):
        reading = [event for event in events(page, "change", "input") if shown in event.outputs]
        fields = {of for event in reading for of, _ in event.targets if event.trigger_mode == "always_last"}
        assert len([event for event in reading if event.trigger_mode == "always_last"]) == 1
        assert len(fields) > 5
