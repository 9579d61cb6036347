"""The queue's benchmark measures what it says."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.overhead import Timed, told_for
from bench.overhead import measure as measure_overhead
from bench.queue import claim_all, claim_figures, percentile, recovery_figures

ROOT = Path(__file__).parents[1]


def test_claims_are_counted_each_once() -> None:
    elapsed_s, claims_s = claim_all(20, num_claimers=2)
    assert len(claims_s) == 20
    assert claims_s == sorted(claims_s)
    assert 0 < claims_s[-1] < elapsed_s


def test_figures_of_claims_are_named_by_the_number_of_claimers() -> None:
    assert set(claim_figures(1, 5, rounds=1)) == {"claims_per_s_1", "claim_p99_ms_1"}


@pytest.mark.parametrize(("share", "value"), [(0.99, 99.0), (0.5, 50.0), (1.0, 100.0), (0.0, 1.0)])
def test_percentile_is_the_value_that_so_many_do_not_exceed(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == value


def test_recovery_is_measured_from_a_real_kill() -> None:
    assert 0 < recovery_figures(rounds=1)["recovery_s"] < 60


def test_overhead_is_that_of_the_same_training_as_a_job_and_bare(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure_overhead(0.1, pairs=1)
    assert set(figures) == {"overhead_percent", "system_percent", "answers_percent"}
    assert figures["system_percent"] > 0
    assert figures["answers_percent"] > 0
    assert re.search(r"10 steps: bare [0-9.]+ s, as a job [0-9.]+ s", capsys.readouterr().out)


def test_overhead_of_a_long_training_is_told_from_a_short_one() -> None:
    short = Timed(
        Counter(
            {"the engine": 5.0, "writing of steps": 0.05, "checkpoints": 0.6, "beside the loop": 9.0}
            | {"sample answers": 1.2}
        )
    )
    told = told_for(short, 120.0)
    assert told == pytest.approx({"overhead_percent": 1.5, "system_percent": 1.5, "answers_percent": 1.0})


def test_trainer_on_paper_knows_no_torch() -> None:
    code = "import json, sys, tests.paper_trainer; print(json.dumps('torch' in sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT).stdout
    assert json.loads(told) is False
