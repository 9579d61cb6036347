"""The held-out rows whose answers a job shows."""

import pytest

from worker.engine.rendering import Rendering
from worker.training.samples import _spread

RENDERING = Rendering("plain", "{text}", "label")


def test_samples_have_different_prompts_from_all_over_the_part() -> None:
    rows = [{"text": f"prompt {index // 5}", "label": str(index)} for index in range(30)]
    assert [row["text"] for row in _spread(rows, RENDERING)] == ["prompt 0", "prompt 2", "prompt 4"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_rows_than_wanted_are_all_shown(count: int) -> None:
    rows = [{"text": f"prompt {index}", "label": "x"} for index in range(count)]
    assert _spread(rows, RENDERING) == rows
