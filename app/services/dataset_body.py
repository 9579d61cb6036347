"""How a dataset is told to the page and to REST."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.context import AppContext
from app.services.mapping import mapping_findings, render_sample
from storage.doctor.finding import Finding
from storage.rows import count_rows, read_rows
from storage.schema.dataset import Dataset, DatasetVersion

NUM_SAMPLES = 3
NUM_PREVIEW_ROWS = 20
MAX_PREVIEW_CHARACTERS = 2000
MAX_SAMPLE_CHARACTERS = 20_000


def is_blocked(found: Sequence[Finding]) -> bool:
    """Whether something among the findings forbids a training."""
    return any(one["severity"] == "blocks" for one in found)


def described(context: AppContext, dataset: Dataset, version: DatasetVersion) -> dict[str, Any]:
    """All of a dataset: the summary, its parts, how it was read, rendered samples and its first rows."""
    counts = count_rows(context.store, version)
    rows = read_rows(context.store, version, "train", 0, NUM_PREVIEW_ROWS)
    return {
        **summary(dataset, version),
        "num_train": counts["train"],
        "num_validation": counts["validation"],
        "num_test": counts["test"],
        "detected": version.detected,
        "report": version.report,
        "origin": version.origin,
        "samples": rendered(rows[:NUM_SAMPLES], version.mapping, version.columns),
        "preview": [{name: _cut(cell, MAX_PREVIEW_CHARACTERS) for name, cell in row.items()} for row in rows],
    }


def summary(dataset: Dataset, version: DatasetVersion) -> dict[str, Any]:
    """A dataset without its rows."""
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version_id": version.id,
        "version": version.number,
        "created_at": dataset.created_at.isoformat(),
        "columns": version.columns,
        "num_rows": version.num_rows,
        "size_bytes": version.size_bytes,
        "content_hash": version.content_hash,
        "mapping": version.mapping,
        "findings": version.findings,
        "blocked": is_blocked(version.findings),
    }


def data_source(version: DatasetVersion | None) -> dict[str, Any]:
    """The exact data that a job or a prefix comes from: dataset, number of the version, hash of its content."""
    return {
        "dataset_id": version.dataset.id if version else None,
        "dataset_name": version.dataset.name if version else None,
        "dataset_version": version.number if version else None,
        "dataset_hash": version.content_hash if version else None,
    }


def version_line(version: DatasetVersion) -> dict[str, Any]:
    """A version as the list of them shows it."""
    return {
        "version": version.number,
        "version_id": version.id,
        "created_at": version.created_at.isoformat(),
        "num_rows": version.num_rows,
        "parts": sorted(version.blobs),
        "content_hash": version.content_hash,
        "kind": version.origin.get("kind", "upload" if version.number == 1 else "mapping"),
        "of": version.origin.get("of"),
        "done": version.origin.get("done", []),
        "mapping": version.mapping,
    }


def rendered(
    rows: Sequence[Mapping[str, str]], mapping: Mapping[str, Any], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows as a mapping makes them read; none where its template names unknown columns."""
    if any(found["code"] == "invalid_template" for found in mapping_findings(mapping, columns)):
        return []
    samples = [render_sample(row, mapping, number) for number, row in enumerate(rows, start=1)]
    return [
        {
            **sample,
            "prompt": _cut(sample["prompt"], MAX_SAMPLE_CHARACTERS),
            "target": _cut(sample["target"], MAX_SAMPLE_CHARACTERS),
        }
        for sample in samples
    ]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} …"
