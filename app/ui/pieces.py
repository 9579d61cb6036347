"""How the page meets Gradio: HTML whose buttons reach Python, and handlers that answer faults with a sentence."""

import functools
import html
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from storage.errors import StudioError
from worker.engine.errors import EngineError

logger = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Any])

LATEST: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": 1}
"""For events of which the last has to count although an earlier one is still being answered.

Gradio drops them otherwise ("once"), or forgets which button was pressed and what comes after a fault ("always_last").
They are answered one after the other, so that what the last one shows stays; several that show the same share a
`concurrency_id` beside it. `events.js` sees that they come and are shown in the order in which they were made.
"""


def in_turn(name: str) -> dict[str, Any]:
    """For events that show the same: they are answered one after the other, none is ahead of an earlier one.

    Args:
        name: What they share.
    """
    return {"concurrency_limit": 1, "concurrency_id": name}


PICK_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-kind]');
  if (button && !button.disabled) trigger('select', {kind: button.dataset.kind, target: button.dataset.target});
});
"""
"""Hands a pressed button of the HTML to Python as a `select` event."""

UNEXPECTED = "Something went wrong on our side. It is in the log of the web role; nothing of yours was lost."


def html_piece(value: str = "", *, elem_id: str | None = None, visible: bool = True) -> gr.HTML:
    """An HTML component in the page's own style; its `select` event tells which button was pressed."""
    return gr.HTML(value, elem_id=elem_id, visible=visible, apply_default_css=False, js_on_load=PICK_SCRIPT)


def picked(event: gr.EventData) -> tuple[str, str]:
    """The kind and the target of the button that was pressed."""
    return str(event._data.get("kind", "")), str(event._data.get("target", ""))


def sentence(fault: Exception) -> str:
    """What a person reads of a fault; an unknown one goes to the log with its traceback."""
    if isinstance(fault, StudioError | EngineError):
        return fault.message
    logger.error("unexpected fault in a page handler", exc_info=fault)
    return UNEXPECTED


def guarded(handler: Handler) -> Handler:
    """Turns every fault of a handler into a message at the edge of the page."""

    def told(fault: Exception) -> gr.Error:
        # Gradio shows a message as HTML, and a refusal may repeat a name that a user wrote.
        return gr.Error(html.escape(sentence(fault), quote=False), title="That did not work", print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from handler(*args, **kwargs)
            except Exception as fault:
                raise told(fault) from fault

        return stream  # type: ignore[return-value]

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception as fault:
            raise told(fault) from fault

    return call  # type: ignore[return-value]
