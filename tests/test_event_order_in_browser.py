"""The order of Gradio's events in the browser (`events.js`), with a server whose answers come when the test says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import open_browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).parents[1] / "app" / "ui" / "events.js"
SERVER = """() => {
  const block = (message) => `data: ${JSON.stringify(message)}\\n\\n`;
  const told = (...messages) => new TextEncoder().encode(messages.map(block).join(""));
  window.server = { joins: [], streams: [] };
  window.fetch = async (asked, more) => {
    if (!(asked.url ?? asked).includes("/queue/data")) {
      return new Promise((resolve, reject) => server.joins.push({
        name: more.body, fail: () => reject(new TypeError("no connection")),
        answer: () => resolve(new Response(JSON.stringify({ event_id: more.body }))),
      }));
    }
    let out;
    const body = new ReadableStream({ start(given) { out = given; } });
    server.streams.push({ tell: (...messages) => out.enqueue(told(...messages)), end: () => out.close() });
    return new Response(body);
  };
}"""
CLIENT = """() => {
  window.heard = [];
  window.join = async (name) => {
    try {
      const answer = await fetch("http://studio/queue/join", { method: "POST", body: name });
      heard.push(`receipt of ${(await answer.json()).event_id}`);
    } catch { heard.push(`no receipt of ${name}`); }
  };
  window.listen = async () => {
    const ends = new AbortController();
    const answer = await fetch(new Request("http://studio/queue/data", { signal: ends.signal }));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      await new Promise((resolve) => setTimeout(resolve, 100));  // a browser that is busy
      for (const block of read.value.split("\\n\\n").filter(Boolean)) {
        const { msg, event_id } = JSON.parse(block.slice(5));
        heard.push(msg === "close_stream" ? "close" : `answer to ${event_id}`);
        if (msg === "close_stream") return ends.abort();
      }
    }
  };
  window.over = (event_id) => ({ msg: "process_completed", event_id });
  window.close_stream = { msg: "close_stream", event_id: null };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def opened(browser: Browser, then: str = "") -> Page:
    """A page with a server and a client as Gradio's, `events.js` between them; nobody has done anything with it."""
    page = browser.new_page()
    scripts = (SERVER, SCRIPT.read_text(encoding="utf-8"), CLIENT)
    page.add_init_script("".join(f"({script.rstrip()}\n)();" for script in scripts) + then)
    page.goto("about:blank")
    return page


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that somebody uses, with an event `a` that is received."""
    page = opened(browser)
    page.mouse.click(5, 5)
    page.evaluate("void join('a')")
    receive(page, 0)
    page.evaluate("void listen()")
    page.wait_for_function("server.streams.length === 1")
    yield page
    page.close()


def receive(page: Page, number: int) -> None:
    """Lets the server answer the event of this number as soon as it is sent."""
    page.wait_for_function(f"server.joins.length > {number}")
    page.evaluate(f"server.joins[{number}].answer()")


def hears(page: Page, *words: str) -> None:
    """Waits until the client has heard something after the receipt of `a`, and makes sure that it is this."""
    page.wait_for_function(f"heard.length >= {1 + len(words)}", timeout=10_000)
    page.wait_for_timeout(250)
    assert page.evaluate("heard") == ["receipt of a", *words]


def test_event_is_sent_once_the_one_before_is_received(page: Page) -> None:
    page.evaluate("void join('b'), void join('c')")
    page.wait_for_timeout(50)
    assert page.evaluate("server.joins.map((each) => each.name)") == ["a", "b"]
    receive(page, 1)
    receive(page, 2)
    hears(page, "receipt of b", "receipt of c")


def test_page_that_opens_sends_its_events_side_by_side(browser: Browser) -> None:
    page = opened(browser, "join('a'), join('b')")
    assert page.evaluate("server.joins.length") == 2
    page.close()


def test_event_that_never_arrives_lets_the_next_one_go(page: Page) -> None:
    page.evaluate("void join('b'), void join('c')")
    page.wait_for_function("server.joins.length > 1")
    page.evaluate("server.joins[1].fail()")
    receive(page, 2)
    hears(page, "no receipt of b", "receipt of c")


def test_answer_waits_for_the_receipt_of_its_event(page: Page) -> None:
    page.evaluate("void join('b')")
    page.wait_for_function("server.joins.length > 1")
    page.evaluate("server.streams[0].tell(over('a'), over('b'))")
    hears(page, "answer to a")
    receive(page, 1)
    hears(page, "answer to a", "receipt of b", "answer to b")


def test_stream_goes_on_while_an_answer_is_owed(page: Page) -> None:
    page.evaluate("void join('b')")
    receive(page, 1)
    hears(page, "receipt of b")
    page.evaluate("server.streams[0].tell(over('a'), close_stream), server.streams[0].end()")
    page.wait_for_function("server.streams.length === 2")
    page.evaluate("server.streams[1].tell(over('b'), close_stream), server.streams[1].end()")
    hears(page, "receipt of b", "answer to a", "answer to b", "close")


def test_receipt_waits_until_the_client_knows_that_the_stream_closes(page: Page) -> None:
    page.evaluate("void join('b')")
    page.wait_for_function("server.joins.length > 1")
    page.evaluate("server.streams[0].tell(over('a'), close_stream), server.joins[1].answer()")
    hears(page, "answer to a", "close", "receipt of b")
