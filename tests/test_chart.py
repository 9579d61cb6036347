"""The curve keeps every early step, marks the best one and draws what it is held against."""

import re

from app.ui.chart import MAX_POINTS, Curve, draw


def points_of(svg: str, name: str) -> list[tuple[float, float]]:
    found = re.search(rf'class="ps-line-{name}" points="([^"]*)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found[1].split())]


def test_chart_without_points_says_when_it_appears() -> None:
    assert "appears with the first steps" in draw(Curve(train=[], validation=[]))


def test_chart_keeps_first_and_last_step_of_a_long_run() -> None:
    train = [(step, 5.0 - step / 5000) for step in range(10_001)]
    points = points_of(draw(Curve(train=train, validation=[], max_steps=10_000)), "train")
    assert len(points) == MAX_POINTS
    short = points_of(draw(Curve(train=[train[0], train[-1]], validation=[], max_steps=10_000)), "train")
    assert (points[0], points[-1]) == (short[0], short[-1])


def test_chart_draws_a_falling_loss_downwards() -> None:
    (_, first), (_, last) = points_of(draw(Curve(train=[(0, 4.0), (10, 1.0)], validation=[])), "train")
    assert last > first  # SVG counts from the top


def test_chart_marks_the_kept_step_and_names_the_levels() -> None:
    shown = draw(Curve([(0, 3.0)], [(0, 3.0), (50, 2.0)], levels=[("base <model>", 2.9)], best_step=50, max_steps=100))
    assert 'class="ps-best"' in shown
    assert "base &lt;model&gt;, 2.90" in shown
    assert "kept: step 50" in shown
