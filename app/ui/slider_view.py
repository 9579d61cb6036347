"""A slider over named stops: one line says where it stands, arrow keys move it, Python hears of it when it rests."""

import json
from collections.abc import Sequence

import gradio as gr

from app.ui import markup

SLIDER_SCRIPT = """
const slider = () => element.querySelector('input[type=range]');
const words = (input) => JSON.parse(input.dataset.words)[Number(input.value)];
element.addEventListener('input', (event) => {
  const input = event.target;
  if (input.type !== 'range') return;
  element.querySelector('output').textContent = words(input);
  input.setAttribute('aria-valuetext', words(input));
});
element.addEventListener('change', (event) => {
  if (event.target === slider()) trigger('select', {kind: 'stop', target: event.target.value});
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-kind]');
  if (button) trigger('select', {kind: button.dataset.kind, target: button.dataset.target});
});
"""


def slider_piece(value: str = "", *, elem_id: str) -> gr.HTML:
    """The component; its `select` event tells of kind `stop` the index where the slider came to rest."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, js_on_load=SLIDER_SCRIPT)


def slider(label: str, words: Sequence[str], at: int, *, name: str, ends: tuple[str, str], aside: str = "") -> str:
    """The slider as HTML.

    Args:
        label: What it sets.
        words: What each stop is called.
        at: Index of the stop where it stands.
        name: Makes its id, unique on the page.
        ends: What stands below its first and its last stop.
        aside: HTML below it.
    """
    told = markup.escape(json.dumps(list(words), ensure_ascii=True))
    first, last = (markup.escape(end) for end in ends)
    return (
        f'<div class="ps-slider"><p><label for="{name}">{markup.isolated(label)}</label>'
        f'<output for="{name}">{markup.escape(words[at])}</output></p>'
        f'<input type="range" id="{name}" min="0" max="{len(words) - 1}" step="1" value="{at}" data-words="{told}" '
        f'aria-valuetext="{markup.escape(words[at])}">'
        f'<p class="ps-slider-ends"><span>{first}</span><span>{last}</span></p>{aside}</div>'
    )
