"""Which base models there are: the starter, local folders, and the hub's short list, brought into the database."""

import hashlib
import logging
from pathlib import Path

from sqlalchemy.orm import Session

from storage.base_models import BaseModelRecord, delete_base_model, list_base_models, register, set_fingerprint
from storage.bases.fingerprint import fingerprint
from storage.bases.inspect import CONFIG_NAME, WEIGHTS_NAME, inspect_folder
from storage.bases.shortlist import SHORT_LIST
from storage.database import Database
from storage.errors import ConflictError, InvalidInputError
from storage.names import check_name
from storage.schema.base_model import BaseModel, BaseModelSource, DownloadState
from storage.settings import Settings

logger = logging.getLogger(__name__)

STARTER_NAME = "starter-1"
STARTER_FOLDER = Path(__file__).resolve().parents[2] / "worker" / "starter"
MODEL_SIGNS = (CONFIG_NAME, "*.safetensors", "*.bin", "adapter_config.json")
"""A folder with none of these is taken for something else and left out of the list."""


def sync_catalog(database: Database, settings: Settings, starter: Path = STARTER_FOLDER) -> None:
    """Brings the rows of base models in line with what is on this machine; writes only where something changed.

    Args:
        database: The open database.
        settings: `models` names the folder of local models.
        starter: Folder of the built-in model; left out while it holds none.
    """
    with database.read() as session:
        rows = {row.name: row for row in list_base_models(session)}
    folders = _folders(settings, starter)
    changed = [found for found in folders if _has_changed(rows.get(found.name), found)]
    gone = [name for name, row in rows.items() if _is_gone(row, {found.name for found in folders})]
    missing = [model for model in SHORT_LIST if model.hub_id not in rows]
    if not changed and not gone and not missing:
        return
    records = [found.read() for found in changed]
    with database.write() as session:
        for record in records:
            _register_folder(session, record)
        for name in gone:
            _forget(session, name)
        for model in missing:
            hub = BaseModelRecord(
                name=model.hub_id,
                source=BaseModelSource.HUB,
                download_state=DownloadState.ABSENT,
                config=model.config,
                details=model.details,
                total_bytes=model.size_bytes,
            )
            _register(session, hub)


def ensure_fingerprint(database: Database, settings: Settings, base_model: BaseModel) -> str:
    """The fingerprint of a model on this machine, computed once and written down.

    Raises:
        InvalidInputError: Its files are missing or damaged.
    """
    if base_model.fingerprint:
        return base_model.fingerprint
    if base_model.path is None:
        absent = f"{base_model.name} is not on this machine. Download it first."
        raise InvalidInputError(str(base_model.details.get("reason") or absent))
    found = fingerprint(Path(base_model.path), fingerprint_cache(settings))
    with database.write() as session:
        set_fingerprint(session, base_model.id, found)
    base_model.fingerprint = found
    return found


def fingerprint_cache(settings: Settings) -> Path:
    """Where fingerprints are remembered."""
    return settings.home / "fingerprints.json"


class _Folder:
    """A base model's folder on this machine, not read yet."""

    def __init__(self, name: str, source: BaseModelSource, path: Path, root: Path) -> None:
        self.name = name
        self.source = source
        self.path = path
        self.root = root
        self.signature = _signature(path, root)

    def read(self) -> BaseModelRecord:
        """What the database keeps of it; a folder that is refused is kept with the reason."""
        config = None
        try:
            found = inspect_folder(self.path, self.root)
            config, details = found.config, found.details
        except InvalidInputError as error:
            details = {"reason": error.message}
        return BaseModelRecord(
            name=self.name,
            source=self.source,
            download_state=DownloadState.READY,
            path=str(self.path) if config else None,
            config=config,
            details={**details, "signature": self.signature},
            total_bytes=int(details.get("size_bytes", 0)),
        )


def _folders(settings: Settings, starter: Path) -> list[_Folder]:
    found = []
    if (starter / CONFIG_NAME).is_file() and (starter / WEIGHTS_NAME).is_file():
        found.append(_Folder(STARTER_NAME, BaseModelSource.STARTER, starter, starter))
    root = settings.models
    if root is None or not root.is_dir():
        return found
    for path in sorted(root.iterdir()):
        if path.name == STARTER_NAME or not _may_be_model(path):
            continue
        try:
            check_name(path.name)
        except InvalidInputError as error:
            logger.warning("a folder of models is left out: %s", error.message)
            continue
        found.append(_Folder(path.name, BaseModelSource.LOCAL, path, root))
    return found


def _may_be_model(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_dir():
        return False
    return path.is_symlink() or any(True for sign in MODEL_SIGNS for _ in path.glob(sign))


def _signature(path: Path, root: Path) -> str:
    """Changes when a file of the folder does; a folder that leads out of the root is not looked into."""
    if not path.resolve().is_relative_to(root.resolve()):
        return "outside"
    stats = sorted((each.name, each.lstat()) for each in path.iterdir() if not each.name.startswith("."))
    listed = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats if name != "__pycache__"]
    return hashlib.sha256(repr((str(path), listed)).encode()).hexdigest()[:16]


def _has_changed(row: BaseModel | None, found: _Folder) -> bool:
    if row is None:
        return True
    if row.source is not found.source:
        return False  # the name belongs to a model of the hub
    return row.details.get("signature") != found.signature or row.download_state is not DownloadState.READY


def _is_gone(row: BaseModel, present: set[str]) -> bool:
    if row.source is BaseModelSource.HUB:
        return row.download_state is DownloadState.READY and not (row.path and Path(row.path).is_dir())
    return row.name not in present and row.download_state is DownloadState.READY


def _register_folder(session: Session, record: BaseModelRecord) -> None:
    base_model = _register(session, record)
    if base_model is not None:
        # Other files: what was known of the ones before no longer holds.
        base_model.fingerprint = None
        base_model.config = record.config
        base_model.path = record.path


def _register(session: Session, record: BaseModelRecord) -> BaseModel | None:
    try:
        return register(session, record)
    except ConflictError as error:
        logger.warning("a base model is left out: %s", error.message)
        return None


def _forget(session: Session, name: str) -> None:
    base_model = next(row for row in list_base_models(session) if row.name == name)
    base_model.download_state = DownloadState.ABSENT
    base_model.path = None
    base_model.downloaded_bytes = 0
    if base_model.source is not BaseModelSource.HUB:
        try:
            delete_base_model(session, name)
        except ConflictError:
            logger.info("the folder of %r is gone; its entry stays because something refers to it", name)
