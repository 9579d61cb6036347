"""The row of a prefix as the dictionary that REST and the page share."""

from typing import Any

from app.services import verdict
from storage.schema.prefix import Prefix


def prefix_body(prefix: Prefix, *, with_rows: bool = False) -> dict[str, Any]:
    """A prefix as lists show it.

    Args:
        prefix: Its row.
        with_rows: Whether the rows of its evaluation are wanted.

    Returns:
        Its columns; `metrics` holds, beside the figures of the training, the held-out loss of the base and with the
        prefix as `base` and `prefixed`.
    """
    metrics = prefix.metrics
    return {
        "id": prefix.id,
        "name": prefix.name,
        "base_model": prefix.base_model,
        "base_revision": prefix.base_revision,
        "base_fingerprint": prefix.base_fingerprint,
        "method": prefix.method,
        "num_virtual_tokens": prefix.num_virtual_tokens,
        "num_parameters": prefix.num_parameters,
        "size_bytes": prefix.size_bytes,
        "metrics": {
            **verdict.body(metrics, with_rows=with_rows),
            "base": {"loss": metrics.get("base_loss")},
            "prefixed": {"loss": metrics.get("validation_loss")},
        },
        "job_id": prefix.job_id,
        "dataset_version_id": prefix.dataset_version_id,
        "imported": prefix.imported,
        "created_at": prefix.created_at.isoformat(),
    }
