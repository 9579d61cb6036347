"""Asking a model server that answers as many requests as it takes: waiting for a place, and what the page says."""

import threading

import pytest

from app.context import AppContext
from app.services.columns import column_of
from app.tabs import asking
from app.ui import compare_view
from app.ui.compare_view import Comparison, Pane
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import BusyError, InvalidInputError
from storage.settings import Settings
from tests.busy_model_server import SENTENCE, BusyModelServer

BODY = {"prompt": "x", "models": [column_of("tiny"), column_of("mine")]}


@pytest.fixture
def context(
    settings: Settings, database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> AppContext:
    monkeypatch.setattr(asking, "PLACE_EVERY_S", 0.01)
    return AppContext(settings, database, store)


def ask(context: AppContext, server: BusyModelServer, cancelled: threading.Event | None = None) -> list[str]:
    """Asks until it is answered or refused; returns what the page showed meanwhile."""
    server.announce(context.settings.inference_file)
    comparison = Comparison([Pane("tiny", ""), Pane("mine", "")])
    shown = []
    for _ in asking.follow(context, BODY, comparison, cancelled or threading.Event(), "me"):
        shown.append(compare_view.panes(comparison))
        if cancelled is not None:
            cancelled.set()
    return [*shown, compare_view.panes(comparison)]


def test_request_beyond_the_limit_waits_for_a_place_and_says_so(context: AppContext) -> None:
    with BusyModelServer(num_refusals=3) as server:
        *waited, last = ask(context, server)
    assert server.num_asked == 4
    assert all("waiting for a free place" in shown for shown in waited[:3])
    assert "soup" in last
    assert "waiting" not in last


def test_request_that_finds_no_place_in_time_is_refused_and_offered_again(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PLACE_TIMEOUT_S", 0.5)
    with BusyModelServer() as server, pytest.raises(BusyError, match="as many as it takes at once") as refused:
        ask(context, server)
    assert server.num_asked > 1
    shown = compare_view.refused(refused.value, again="play-answer")
    assert "50 requests are open for" in shown
    assert 'data-press="play-answer">Try again</button>' in shown


def test_request_that_gave_way_after_its_start_is_not_asked_twice(context: AppContext) -> None:
    with BusyModelServer(begins=True) as server, pytest.raises(BusyError) as refused:
        ask(context, server)
    assert (server.num_asked, refused.value.message) == (1, SENTENCE)


def test_waiting_ends_when_its_user_stops_it(context: AppContext) -> None:
    with BusyModelServer() as server:
        last = ask(context, server, threading.Event())[-1]
    assert server.num_asked == 1
    assert last.count("stopped") == 2


def test_answer_that_is_stopped_while_it_is_written_is_read_no_further(context: AppContext) -> None:
    with BusyModelServer(num_refusals=0) as server:
        last = ask(context, server, threading.Event())[-1]
    assert "soup" not in last
    assert last.count("stopped") == 2


def test_what_would_go_wrong_again_is_not_offered_again() -> None:
    shown = compare_view.refused(InvalidInputError("The prompt is too long."), again="play-answer")
    assert "The prompt is too long." in shown
    assert "Try again" not in shown
