"""Writes the zip of a prefix, for people and for PEFT."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from app.services.card import card_of
from app.services.methods import OWN_TENSORS_NAME, is_own_format
from app.services.snippet import snippet_of
from storage.schema.base_model import BaseModelSource
from storage.schema.prefix import Prefix
from worker.engine.families import Geometry
from worker.engine.prefix_file import CONFIG_NAME, TENSORS_NAME, adapter_config
from worker.engine.recipe import Method

FORMAT_VERSION = 1
RECORD_NAME = "prefix-studio.json"
CARD_NAME = "README.md"


@dataclass(frozen=True)
class Export:
    """A prefix that is to be exported.

    Attributes:
        prefix: Its row.
        source: Where its base comes from.
        geometry: Measurements of its base.
        tensors: The kept file of its numbers, a table as PEFT lays one out.
        include_rows: Whether sample rows of the user's data go along.
    """

    prefix: Prefix
    source: BaseModelSource
    geometry: Geometry
    tensors: Path
    include_rows: bool = False

    @property
    def is_own_format(self) -> bool:
        """Whether PEFT cannot load it."""
        return is_own_format(self.prefix.method, has_encoder=self.geometry.has_encoder)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The sample rows that go along."""
        return self.prefix.samples if self.include_rows else []

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures that go along; those rows of the user's data that are among them, only where the others do."""
        told = {name: value for name, value in self.prefix.metrics.items() if name != "samples"}
        evaluation = told.get("evaluation")
        if isinstance(evaluation, dict) and not self.include_rows:
            told["evaluation"] = {name: value for name, value in evaluation.items() if name != "rows"}
        return told


def write_archive(target: Path, export: Export) -> None:
    """Writes the zip that `PeftModel.from_pretrained` loads once it is unpacked.

    One in our own format holds no `adapter_config.json`, because PEFT could load a part of it at most, in silence; its
    card says how it is used instead.

    Args:
        target: The zip.
        export: What goes into it.
    """
    prefix = export.prefix
    snippet = snippet_of(prefix, export.source, export.geometry)
    texts = {
        CARD_NAME: card_of(
            prefix, export.source, snippet, export.metrics, export.samples, has_encoder=export.geometry.has_encoder
        ),
        RECORD_NAME: json.dumps(_record(export), indent=2, ensure_ascii=False),
    }
    if not export.is_own_format:
        texts[CONFIG_NAME] = json.dumps(_adapter_config(export), indent=2)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
        archive.write(export.tensors, OWN_TENSORS_NAME if export.is_own_format else TENSORS_NAME)


def _adapter_config(export: Export) -> dict[str, Any]:
    prefix = export.prefix
    return adapter_config(
        cast(Method, prefix.method),
        prefix.num_virtual_tokens,
        export.geometry,
        base_model=prefix.base_model,
        revision=prefix.base_revision,
    )


def _record(export: Export) -> dict[str, Any]:
    """`prefix-studio.json`: all that another Prefix Studio needs to use the prefix as it was trained."""
    prefix = export.prefix
    return {
        "format_version": FORMAT_VERSION,
        "name": prefix.name,
        "method": prefix.method,
        "num_virtual_tokens": prefix.num_virtual_tokens,
        "base": {
            "name": prefix.base_model,
            "source": export.source.value,
            "revision": prefix.base_revision,
            "fingerprint": prefix.base_fingerprint,
        },
        "rendering": prefix.rendering,
        "recipe": prefix.recipe,
        "metrics": export.metrics,
        "samples": export.samples,
    }
