"""Wording and escaping of the page's own HTML."""

import pytest

from app.ui import markup


@pytest.mark.parametrize("hostile", ["<img src=x onerror=alert(1)>", '" onclick="x', "${alert(1)}", "{{value}}", "`x`"])
def test_escape_leaves_nothing_that_a_browser_or_a_template_would_run(hostile: str) -> None:
    escaped = markup.escape(hostile)
    assert not set('<>"${}`') & set(escaped)


def test_isolated_keeps_the_writing_direction_of_a_cell_inside_it() -> None:
    assert markup.isolated("a\u202eb") == "<bdi>a\u202eb</bdi>"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (96_000, "96 KB"), (1_240_000, "1.2 MB"), (3e12, "3,000 GB")],
)
def test_file_size_reads_as_people_write_it(size: float, words: str) -> None:
    assert markup.file_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "a while"), (0.2, "1 s"), (40, "40 s"), (180, "about 3 min"), (7200, "about 2.0 h")],
)
def test_duration_is_told_in_the_unit_that_fits(seconds: float | None, words: str) -> None:
    assert markup.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"), [(None, "unknown"), (9_600, "10 K"), (3_100_000, "3.1 M"), (135e6, "135 M"), (1.2e9, "1.2 B")]
)
def test_parameters_are_shortened(number: int | None, words: str) -> None:
    assert markup.parameters(number) == words


def test_count_says_one_row_and_many_rows() -> None:
    assert (markup.count(1, "row"), markup.count(7477, "row")) == ("1 row", "7,477 rows")


def test_table_keeps_its_cells_and_escapes_its_headers() -> None:
    shown = markup.table(["<b>"], [["cell"]], "caption")
    assert "<td>cell</td>" in shown
    assert "<b>" not in shown


def test_card_tells_which_one_is_chosen_and_hands_its_target_over() -> None:
    shown = markup.card("job", 'a"b', "A job", is_chosen=True)
    assert 'aria-pressed="true"' in shown
    assert 'data-target="a&quot;b"' in shown


def test_progress_stays_between_nothing_and_all() -> None:
    assert "width:100.0%" in markup.progress(3.0)
    assert "width:0.0%" in markup.progress(-1.0)
