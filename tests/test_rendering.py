"""Templates filled with the cells of a row: verbatim, and without a gap for what is empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.snippet import prompt_expression
from worker.engine.rendering import InvalidTemplateError, render_prompt

ALPACA = "{instruction}\n{input}"


def test_an_optional_input_leaves_no_gap() -> None:
    assert render_prompt(ALPACA, {"instruction": "Add.", "input": "1 and 2"}) == "Add.\n1 and 2"
    assert render_prompt(ALPACA, {"instruction": "Add.", "input": ""}) == "Add."
    assert render_prompt("{instruction}\n\n{input}\n\nAnswer:", {"instruction": "Add.", "input": ""}) == (
        "Add.\n\nAnswer:"
    )


def test_a_line_with_words_stays_whatever_its_columns_hold() -> None:
    assert render_prompt("Text: {a}\nTone: {b}", {"a": "hi", "b": ""}) == "Text: hi\nTone: "


def test_blank_lines_of_the_template_and_of_cells_stay() -> None:
    assert render_prompt("{a}\n\nEnd\n", {"a": "x\n\ny"}) == "x\n\ny\n\nEnd\n"
    assert render_prompt("{a}\n{b}", {"a": "x", "b": "\n"}) == "x\n\n"


def test_a_template_of_one_line_is_never_left_out() -> None:
    assert render_prompt("{a}", {"a": ""}) == ""
    assert render_prompt("{a}{b}\n{{}}", {"a": "", "b": ""}) == "{}"


def test_a_missing_column_is_refused_even_in_a_line_that_would_go() -> None:
    with pytest.raises(InvalidTemplateError, match=r"names {input}, but the row has no such column"):
        render_prompt(ALPACA, {"instruction": "Add."})


@given(
    template=st.lists(st.sampled_from(["{a}", "{b}", "\n", "\n\n", "x", " ", "{{", "}}"]), max_size=9).map("".join),
    a=st.sampled_from(["", "1", "\n", " "]),
    b=st.sampled_from(["", "2"]),
)
def test_the_snippet_of_a_download_fills_alike(template: str, a: str, b: str) -> None:
    row = {"a": a, "b": b}
    assert eval(prompt_expression(template), {"row": row}) == render_prompt(template, row)
