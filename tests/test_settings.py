"""Settings are read once; what cannot work is refused before anything starts."""

from pathlib import Path

import pytest

from storage.errors import SettingsError
from storage.settings import is_loopback, read_settings


def test_defaults_keep_everything_in_one_folder_on_the_loopback(tmp_path: Path) -> None:
    settings = read_settings({"PREFIX_STUDIO_HOME": str(tmp_path)})
    assert (settings.host, settings.port, settings.token, settings.models) == ("127.0.0.1", 7860, None, None)
    assert settings.database_url == f"sqlite:///{tmp_path / 'studio.db'}"
    assert settings.artifacts == str(tmp_path / "artifacts")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PREFIX_STUDIO_PORT", "eighty", "expected a number from 1 to 65535"),
        ("PREFIX_STUDIO_PORT", "70000", "expected a number from 1 to 65535"),
        ("PREFIX_STUDIO_LEASE_S", "soon", "expected seconds, more than 0"),
        ("PREFIX_STUDIO_CHECKPOINT_EVERY_S", "0", "expected seconds, more than 0"),
        ("PREFIX_STUDIO_BUSY_TIMEOUT_S", "nan", "expected seconds, more than 0"),
        ("PREFIX_STUDIO_KEPT_CHECKPOINTS", "-1", "expected a number from 0 to 100"),
        ("PREFIX_STUDIO_HOST", "0.0.0.0", "Set PREFIX_STUDIO_TOKEN"),
        ("PREFIX_STUDIO_TOKEN", "schlüssel", "printable ASCII"),
        ("PREFIX_STUDIO_EXECUTOR", "ray", "only 'local' is built yet"),
        ("PREFIX_STUDIO_DATABASE_URL", "postgresql://x", "not supported yet"),
        ("PREFIX_STUDIO_ARTIFACTS", "s3://bucket", "only a local folder"),
    ],
)
def test_setting_that_cannot_work_is_refused_in_a_sentence(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_settings({name: value})


def test_token_opens_an_address_beyond_the_loopback() -> None:
    settings = read_settings({"PREFIX_STUDIO_HOST": "0.0.0.0", "PREFIX_STUDIO_TOKEN": "a-long-secret"})
    assert settings.token == "a-long-secret"


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_loopback_is_known_by_its_address(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
