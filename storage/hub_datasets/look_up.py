"""Which Parquet files of a dataset on the Hugging Face Hub make its parts, pinned to a commit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from storage.bases.hub import COMMIT, TIMEOUT_S, HubFile, check_hub_id, told_in_sentences
from storage.errors import InvalidInputError, NotFoundError, TooLargeError
from storage.quotes import quoted
from storage.tables.parts import part_of
from storage.tables.table import PARTS, Part

CONVERTED = "refs/convert/parquet"
"""The branch in which the hub keeps a Parquet copy of most datasets."""

SHARD = re.compile(r"[-_.]?\d{1,5}([-_]of[-_]\d{1,5})?$")
MAX_FILES = 500


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the hub, pinned to a commit.

    Attributes:
        hub_id: Its id, as the hub spells it.
        revision: The commit.
        subset: Its subset; empty where there is only one.
        parts: The files of each part in their order.
    """

    hub_id: str
    revision: str
    subset: str
    parts: dict[Part, tuple[HubFile, ...]]

    @property
    def files(self) -> list[HubFile]:
        """All files, those of `train` first."""
        return [file for part in self.parts.values() for file in part]


def look_up_dataset(hub_id: str, *, subset: str | None, max_bytes: int, endpoint: str | None = None) -> HubDataset:
    """Asks the hub for a dataset.

    Args:
        hub_id: As a user typed it.
        subset: One of its subsets; needed where it has several.
        max_bytes: The most that its files may have together.
        endpoint: Address of the hub; huggingface_hub's own by default.

    Raises:
        StudioError: There is none, it has no Parquet files, or too large ones, or the hub cannot be reached.
    """
    hub_id = check_hub_id(hub_id)
    found_id, revision, files = _parquet_files(hub_id, endpoint)
    chosen, name = _subset(hub_id, files, subset)
    parts = _parts(chosen)
    if "train" not in parts:
        listed = ", ".join(file.name for file in chosen[:4])
        raise InvalidInputError(f"{hub_id} has no part for training among its files ({listed}). Upload it as files.")
    dataset = HubDataset(found_id, revision, name, parts)
    size = sum(file.size for file in dataset.files)
    if size > max_bytes:
        raise TooLargeError(
            f"{hub_id} has {size / 1e6:,.0f} MB of Parquet; expected at most {max_bytes / 1e6:,.0f} MB. Choose a "
            "smaller subset, or upload a part of it as a file."
        )
    return dataset


def _parquet_files(hub_id: str, endpoint: str | None) -> tuple[str, str, list[HubFile]]:
    """Id, commit and Parquet files: those of the dataset itself, or of the copy that the hub made."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    for revision in (None, CONVERTED):
        try:
            with told_in_sentences(hub_id, "dataset"):
                info = api.dataset_info(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        except NotFoundError:
            if revision is None:
                raise
            break
        files = [
            HubFile(each.rfilename, int(each.size or 0), each.lfs.sha256 if each.lfs else None)
            for each in info.siblings or []
            if each.rfilename.endswith(".parquet")
        ]
        if files and COMMIT.fullmatch(info.sha or ""):
            return info.id, str(info.sha), sorted(files, key=lambda file: file.name)
    raise InvalidInputError(
        f"{hub_id} has no Parquet files, which alone are fetched. Download its files and upload them."
    )


def _subset(hub_id: str, files: list[HubFile], wish: str | None) -> tuple[list[HubFile], str]:
    """The files of one subset: each has a folder of its own, but for one that is called `data` or lies at the top."""
    subsets: dict[str, list[HubFile]] = {}
    for file in files:
        folder, _, _ = file.name.rpartition("/")
        # In the hub's own copy each part has a folder too.
        names = [name for name in folder.split("/") if name and part_of(name) is None]
        subsets.setdefault(names[0] if names else "data", []).append(file)
    if wish is None and len(subsets) > 1:
        wish = next((name for name in ("default", "data", "main") if name in subsets), None)
        if wish is None:
            listed = ", ".join(sorted(subsets)[:20])
            raise InvalidInputError(f"{hub_id} has {len(subsets)} subsets: {listed}. Choose one of them.")
    name = wish if wish is not None else next(iter(subsets))
    if name not in subsets:
        raise InvalidInputError(f"{hub_id} has no subset {quoted(name)}; it has {', '.join(sorted(subsets)[:20])}.")
    if len(subsets[name]) > MAX_FILES:
        raise TooLargeError(f"{hub_id} has {len(subsets[name]):,} files; expected at most {MAX_FILES}.")
    return subsets[name], name if len(subsets) > 1 else ""


def _parts(files: Sequence[HubFile]) -> dict[Part, tuple[HubFile, ...]]:
    found: dict[Part, list[HubFile]] = {}
    for file in files:
        folder, _, name = file.name.removesuffix(".parquet").rpartition("/")
        part = part_of(SHARD.sub("", name)) or part_of(folder)
        if part is not None:
            found.setdefault(part, []).append(file)
    if not found and len(files) == 1:
        found["train"] = list(files)
    return {part: tuple(found[part]) for part in PARTS if part in found}
