"""Fixtures that every test may use: shared data, a home folder, its database and its artifacts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.database import Database, open_database
from storage.migrate import migrate
from storage.settings import Settings, read_settings


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a case of bytes by its parameter: packed files hold the clock, and processes must name tests alike."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of data and models beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of shared data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with every table, made once; tests copy it."""
    home = tmp_path_factory.mktemp("migrated")
    migrate(home_settings(home))
    return home / "studio.db"


@pytest.fixture
def settings(tmp_path: Path, migrated_database: Path) -> Settings:
    """Settings of a fresh home folder whose database has its tables."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(migrated_database, home / "studio.db")
    return home_settings(home)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of the home folder."""
    database = open_database(settings)
    yield database
    database.close()


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    """The artifacts of the home folder."""
    return ArtifactStore(settings)


def home_settings(home: Path) -> Settings:
    """Settings of which only the home folder is given."""
    return read_settings({"PREFIX_STUDIO_HOME": str(home)})
