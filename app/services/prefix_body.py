"""The row of a prefix as the dictionary that REST and the page share."""

from typing import Any

from storage.schema.prefix import Prefix


def prefix_body(prefix: Prefix) -> dict[str, Any]:
    """A prefix as lists show it.

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
            **metrics,
            "base": {"loss": metrics.get("base_loss")},
            "prefixed": {"loss": metrics.get("validation_loss")},
        },
        "job_id": prefix.job_id,
        "dataset_version_id": prefix.dataset_version_id,
        "imported": prefix.imported,
        "created_at": prefix.created_at.isoformat(),
    }
