"""What a job tells of a training that compares learning rates: stage, log, standing, and one curve."""

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.history import loss_history
from storage.prefixes import get_prefix
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.tiny import tiny_base_folder
from tests.trainer_bench import Role
from worker.training import recorder as recorder_module
from worker.training.progress import trying

SWEEP = {"sweep": [0.0005, 0.05, 0.01], "sweep_steps": 2, "eval_every": 4, "max_steps": 8}


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path) -> Role:
    return Role(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


def test_job_tells_which_rates_it_tries_drops_and_keeps(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    real = recorder_module.Recorder.stage
    monkeypatch.setattr(
        recorder_module.Recorder, "stage", lambda self, words: stages.append(words) or real(self, words)
    )
    job_id = role.submit(**SWEEP)
    done = role.run()
    assert done.status == JobStatus.SUCCEEDED, done.error
    assert stages.index("Trying 3 learning rates: 0.0005, 0.05 and 0.01") + 1 == stages.index("Training")
    messages = " ".join(event.data["message"] for event in role.events(job_id, "log"))
    assert messages.count("is dropped at step") == 2
    assert messages.count("won at step 4; the training goes on with it") == 1


def test_standing_of_all_rates_stays_with_job_and_prefix(role: Role) -> None:
    role.submit(**SWEEP)
    done = role.run()
    sweep = done.metrics["sweep"]
    assert [candidate["rate"] for candidate in sweep] == [0.0005, 0.01, 0.05]
    assert sorted(candidate["state"] for candidate in sweep) == ["chosen", "dropped", "dropped"]
    winner = next(candidate for candidate in sweep if candidate["state"] == "chosen")
    with role.database.read() as session:
        prefix = get_prefix(session, done.prefix_id or "")
    assert prefix.metrics["sweep"] == sweep
    assert (prefix.recipe["learning_rate"], prefix.recipe["sweep"]) == (winner["rate"], [])
    assert prefix.metrics["num_examples"] == 4 * (3 * 2 + 2 * 2 + 4)


def test_curve_is_that_of_the_winner_from_the_start(role: Role) -> None:
    swept = role.submit(**SWEEP)
    winner = next(each["rate"] for each in role.run().metrics["sweep"] if each["state"] == "chosen")
    lone = role.submit(learning_rate=winner, max_steps=8, eval_every=4)
    role.run()
    with role.database.read() as session:
        curve, expected = (loss_history(session, job_id) for job_id in (swept, lone))
    assert curve.train == pytest.approx(expected.train, abs=1e-3)
    assert sorted(curve.validation) == [0, 2, 4, 8]
    assert curve.validation[8] == pytest.approx(expected.validation[8], abs=1e-3)


def test_stage_names_the_rates() -> None:
    assert trying((0.02, 0.05)) == "Trying 2 learning rates: 0.02 and 0.05"
