"""The list of base models follows what is on the machine."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from storage.base_models import get_base_model, list_base_models
from storage.bases.catalog import STARTER_NAME, ensure_fingerprint, sync_catalog
from storage.bases.fingerprint import fingerprint
from storage.bases.shortlist import SHORT_LIST
from storage.errors import InvalidInputError
from storage.schema.base_model import BaseModelSource, DownloadState
from tests.test_inspect import model_folder
from worker.engine.families import check_family, geometry


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def settings_with_models(settings, models):
    return replace(settings, models=models)


def rows(database):
    with database.read() as session:
        return {row.name: row for row in list_base_models(session)}


def sync(database, settings, tmp_path):
    sync_catalog(database, settings, starter=tmp_path / "no-starter")
    return rows(database)


def test_short_list_is_there_without_a_network_and_fits_the_engine(database, settings, tmp_path):
    found = sync(database, settings, tmp_path)
    assert set(found) == {model.hub_id for model in SHORT_LIST}
    for row in found.values():
        assert row.source is BaseModelSource.HUB
        assert row.download_state is DownloadState.ABSENT
        check_family(row.config)
        assert geometry(row.config).context_length >= 512
    assert found["meta-llama/Llama-3.2-1B"].details["gated"]


def test_local_folder_is_listed_by_its_name(database, settings_with_models, models, tmp_path):
    model_folder(models, "mine")
    (models / "notes").mkdir()
    (models / ".hidden").mkdir()
    found = sync(database, settings_with_models, tmp_path)
    assert set(found) - {model.hub_id for model in SHORT_LIST} == {"mine"}
    mine = found["mine"]
    assert (mine.source, mine.download_state) == (BaseModelSource.LOCAL, DownloadState.READY)
    assert mine.path == str(models / "mine")
    assert mine.details["num_parameters"] == 16
    assert "reason" not in mine.details


def test_starter_is_listed_once_it_is_whole(database, settings, tmp_path):
    starter = model_folder(tmp_path, "starter")
    weights = (starter / "model.safetensors").read_bytes()
    (starter / "model.safetensors").unlink()
    sync_catalog(database, settings, starter)
    assert STARTER_NAME not in rows(database)
    (starter / "model.safetensors").write_bytes(weights)
    sync_catalog(database, settings, starter)
    assert rows(database)[STARTER_NAME].source is BaseModelSource.STARTER


def test_folder_that_cannot_be_used_is_listed_with_the_reason(database, settings_with_models, models, tmp_path):
    folder = model_folder(models, "pickled", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    found = sync(database, settings_with_models, tmp_path)
    assert "pickle" in found["pickled"].details["reason"]
    assert found["pickled"].config is None


def test_link_out_of_the_models_folder_is_listed_as_refused_and_not_read(
    database, settings_with_models, models, tmp_path
):
    outside = model_folder(tmp_path / "outside")
    os.symlink(outside, models / "linked")
    found = sync(database, settings_with_models, tmp_path)
    assert "leads out" in found["linked"].details["reason"]
    assert found["linked"].config is None
    with pytest.raises(InvalidInputError, match="leads out"):
        ensure_fingerprint(database, settings_with_models, found["linked"])


def test_second_sync_writes_nothing(database, settings_with_models, models, tmp_path, monkeypatch):
    model_folder(models, "mine")
    sync(database, settings_with_models, tmp_path)
    monkeypatch.setattr(database, "write", lambda: pytest.fail("nothing has changed"))
    sync(database, settings_with_models, tmp_path)


def test_changed_folder_is_read_again_and_loses_its_fingerprint(database, settings_with_models, models, tmp_path):
    folder = model_folder(models, "mine")
    mine = sync(database, settings_with_models, tmp_path)["mine"]
    first = ensure_fingerprint(database, settings_with_models, mine)
    assert rows(database)["mine"].fingerprint == first == fingerprint(folder)
    save_file({"embed": np.zeros((5, 4), np.float32)}, folder / "model.safetensors")
    mine = sync(database, settings_with_models, tmp_path)["mine"]
    assert mine.details["num_parameters"] == 20
    assert mine.fingerprint is None
    assert ensure_fingerprint(database, settings_with_models, mine) != first


def test_repaired_folder_loses_its_reason(database, settings_with_models, models, tmp_path):
    folder = model_folder(models, "mine")
    (folder / "tokenizer.json").unlink()
    assert "reason" in sync(database, settings_with_models, tmp_path)["mine"].details
    (folder / "tokenizer.json").write_text("{}")
    assert "reason" not in sync(database, settings_with_models, tmp_path)["mine"].details


def test_removed_folder_leaves_the_list(database, settings_with_models, models, tmp_path):
    model_folder(models, "mine")
    sync(database, settings_with_models, tmp_path)
    shutil.rmtree(models / "mine")
    assert "mine" not in sync(database, settings_with_models, tmp_path)


def test_removed_folder_stays_as_absent_while_a_job_refers_to_it(database, settings_with_models, models, tmp_path):
    from storage.jobs import submit_job
    from tests.stored import RECIPE, RENDERING, add_dataset

    model_folder(models, "mine")
    mine = sync(database, settings_with_models, tmp_path)["mine"]
    with database.write() as session:
        _, version = add_dataset(session)
        submit_job(
            session,
            name="job",
            dataset_version_id=version.id,
            base_model=mine,
            recipe=RECIPE,
            rendering=RENDERING,
        )
    shutil.rmtree(models / "mine")
    found = sync(database, settings_with_models, tmp_path)["mine"]
    assert (found.download_state, found.path) == (DownloadState.ABSENT, None)
    model_folder(models, "mine")
    assert sync(database, settings_with_models, tmp_path)["mine"].download_state is DownloadState.READY


def test_folder_named_like_a_prefix_is_left_out(database, settings_with_models, models, tmp_path, caplog):
    from storage.prefixes import create_prefix
    from tests.stored import PREFIX_FIELDS, RECIPE, RENDERING, add_base_model

    with database.write() as session:
        base_model = add_base_model(session, "another")
        fields = {
            **PREFIX_FIELDS,
            "base_model_id": base_model.id,
            "base_model": "another",
            "method": "prefix-tuning",
            "recipe": RECIPE,
            "rendering": RENDERING,
        }
        create_prefix(session, "mine", fields)
    model_folder(models, "mine")
    assert "mine" not in sync(database, settings_with_models, tmp_path)
    assert "same model id" in caplog.text


def test_folder_whose_name_cannot_be_shown_is_left_out(database, settings_with_models, models, tmp_path):
    model_folder(models, "bad\nname")
    model_folder(models, "x" * 81)
    assert len(sync(database, settings_with_models, tmp_path)) == len(SHORT_LIST)


def test_downloaded_model_whose_folder_is_gone_is_absent(database, settings, tmp_path):
    sync(database, settings, tmp_path)
    with database.write() as session:
        row = get_base_model(session, "openai-community/gpt2")
        row.download_state, row.path = DownloadState.READY, str(tmp_path / "gone")
    found = sync(database, settings, tmp_path)["openai-community/gpt2"]
    assert (found.download_state, found.path) == (DownloadState.ABSENT, None)
