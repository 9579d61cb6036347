"""Looks models up on the Hugging Face Hub: checked ids, commits instead of branches, refusals with the way out.

No address that a user gives is ever fetched; an id goes through huggingface_hub's own validator first.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.bases.inspect import CONFIG_NAME, INDEX_NAME, MAX_CONFIG_BYTES, PICKLES, TOKENIZER_NAME, WEIGHTS_NAME
from storage.errors import InvalidInputError, NotFoundError, StudioError

TIMEOUT_S = 10.0
MAX_SIDE_FILE_BYTES = 100_000_000
EXAMPLE = "HuggingFaceTB/SmolLM2-135M"

SIDE_FILES = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.json|merges\.txt|tokenizer\.model|chat_template\.jinja|README\.md|LICENSE[\w.\-]{0,20}"
)
"""What is fetched beside the weights: never code, never a pickle."""

SHARDS = re.compile(r"model-\d{1,5}-of-\d{1,5}\.safetensors")
COMMIT = re.compile(r"[0-9a-f]{40}")
ADDRESSES = {"model": "", "dataset": "datasets/"}
HERE_ALREADY = {"model": "use a model that is on this machine", "dataset": "upload the table as a file"}


class HubUnreachableError(StudioError):
    """The hub does not answer, or this machine is told to stay offline."""

    code = "hub_unreachable"
    http_status = 503


class GatedModelError(StudioError):
    """The hub hands the model out only to those who accepted its licence."""

    code = "gated"
    http_status = 403


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its name, size in bytes and, for large ones, SHA-256."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class HubRepository:
    """A model on the hub, pinned to a commit.

    Attributes:
        hub_id: Its id, as the hub spells it.
        revision: The commit.
        files: The files that are needed, and no others.
        license: Its licence, where it names one.
        is_gated: Whether the hub asks for consent first.
        config: The content of its config.json.
    """

    hub_id: str
    revision: str
    files: tuple[HubFile, ...]
    license: str | None
    is_gated: bool
    config: dict[str, Any]

    @property
    def total_bytes(self) -> int:
        """Size of all needed files."""
        return sum(file.size for file in self.files)


def check_hub_id(text: str) -> str:
    """The id that a user typed, without white space around it.

    Raises:
        InvalidInputError: It is a path, an address, names a revision, or is no id at all.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    hub_id = text.strip()
    shown = hub_id[:100]
    if "://" in hub_id or hub_id.lower().startswith(("huggingface.co/", "hf.co/", "www.")):
        raise InvalidInputError(
            f"{shown!r} is an address; expected an id such as {EXAMPLE}. Give the two names "
            "that follow huggingface.co/."
        )
    if "@" in hub_id:
        raise InvalidInputError(
            f"{shown!r} names a revision; expected an id such as {EXAMPLE}. Leave out the @: the "
            "newest commit is pinned."
        )
    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise InvalidInputError(
            f"{shown!r} is no hub id; expected owner and name such as {EXAMPLE}. For a model on this machine, put its "
            "folder into PREFIX_STUDIO_MODELS."
        ) from error
    return hub_id


def look_up(hub_id: str, *, revision: str | None = None, endpoint: str | None = None) -> HubRepository:
    """Asks the hub what a repository holds.

    Args:
        hub_id: Its id, checked here once more.
        revision: A commit; the newest by default.
        endpoint: Address of the hub; huggingface_hub's own (`HF_ENDPOINT`) by default.

    Raises:
        InvalidInputError: It cannot be used here, and why.
        NotFoundError: There is no such model.
        GatedModelError: Consent to its licence is missing.
        HubUnreachableError: The hub does not answer.
    """
    from huggingface_hub import HfApi

    hub_id = check_hub_id(hub_id)
    with told_in_sentences(hub_id):
        info = HfApi(endpoint=endpoint).model_info(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        if not COMMIT.fullmatch(info.sha or ""):
            raise InvalidInputError(f"The hub names no commit for {hub_id}, so it cannot be pinned. Try again later.")
        files = needed_files(hub_id, [_hub_file(sibling) for sibling in info.siblings or []])
        config = _fetch_config(check_hub_id(info.id), info.sha, endpoint)
    license = info.card_data.get("license") if info.card_data else None
    return HubRepository(
        hub_id=info.id,
        revision=info.sha,
        files=files,
        license=license if isinstance(license, str) else None,
        is_gated=bool(info.gated),
        config=config,
    )


def needed_files(hub_id: str, listed: list[HubFile]) -> tuple[HubFile, ...]:
    """The files of a repository that a base model consists of.

    Raises:
        InvalidInputError: Something is missing, or there are pickles in place of safetensors.
    """
    names = {file.name for file in listed}
    weights = {WEIGHTS_NAME} if WEIGHTS_NAME in names else {INDEX_NAME, *filter(SHARDS.fullmatch, names)}
    has_weights = WEIGHTS_NAME in names or (INDEX_NAME in names and len(weights) > 1)
    if not has_weights and any(Path(name).match(pattern) for name in names for pattern in PICKLES):
        raise InvalidInputError(
            f"{hub_id} stores its weights as pickle files, which can run code when they are loaded; expected "
            "safetensors. Choose another model, or a copy of it in safetensors."
        )
    for name in (CONFIG_NAME, TOKENIZER_NAME):
        if name not in names:
            raise InvalidInputError(f"{hub_id} has no {name}, so it cannot be used here. Choose another model.")
    if not has_weights:
        raise InvalidInputError(f"{hub_id} has no safetensors weights at its top level. Choose another model.")
    for file in listed:
        if SIDE_FILES.fullmatch(file.name) and file.size > MAX_SIDE_FILE_BYTES:
            raise InvalidInputError(f"{file.name} of {hub_id} has {file.size:,} bytes; that is no usable model.")
    needed = [file for file in listed if SIDE_FILES.fullmatch(file.name) or file.name in weights]
    # Small files first: what is wrong with a model shows before its weights are fetched.
    return tuple(sorted(needed, key=lambda file: (file.size, file.name)))


@contextmanager
def told_in_sentences(hub_id: str, kind: str = "model") -> Iterator[None]:
    """Turns what huggingface_hub raises into refusals with the way out.

    Args:
        hub_id: What is asked for.
        kind: `model` or `dataset`.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise GatedModelError(
            f"{hub_id} is gated: accept its licence at https://huggingface.co/{ADDRESSES[kind]}{hub_id}, make a token "
            "at https://huggingface.co/settings/tokens, set it as HF_TOKEN and start the app again."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        # A missing connection shows as a missing local file once huggingface_hub gives up on asking.
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(hub_id, kind) from error
        raise NotFoundError(
            f"The hub has no {kind} {hub_id}, or it is private. Check the spelling; for a private one set HF_TOKEN."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnreachableError(
            f"{hub_id} cannot be looked up because HF_HUB_OFFLINE is set. Unset it, or {HERE_ALREADY[kind]}."
        ) from error
    except (errors.HTTPError, ConnectionError) as error:
        raise _unreachable(hub_id, kind) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # huggingface_hub raises these, without a number of the system, for answers that are cut off or make no sense.
        raise _unreachable(hub_id, kind) from error


def _unreachable(hub_id: str, kind: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"The Hugging Face Hub cannot be reached, so {hub_id} cannot be fetched. Without it, {HERE_ALREADY[kind]}; try "
        "again when there is a connection."
    )


def _hub_file(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    return HubFile(sibling.rfilename, int(sibling.size or 0), lfs.sha256 if lfs else None)


def _fetch_config(hub_id: str, revision: str, endpoint: str | None) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as folder:
        path = Path(
            hf_hub_download(
                hub_id, CONFIG_NAME, revision=revision, local_dir=folder, endpoint=endpoint, etag_timeout=TIMEOUT_S
            )
        )
        try:
            config = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_CONFIG_BYTES else None
        except (ValueError, RecursionError):
            config = None
    if not isinstance(config, dict):
        raise InvalidInputError(f"{CONFIG_NAME} of {hub_id} cannot be read. Choose another model.")
    return config
