"""Repairs of a dataset: tried first, then kept as a new version; earlier versions stay and can be gone back to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.context import AppContext
from app.services.dataset_order import (
    examined,
    guessed,
    reading_findings,
    repaired_mapping,
    view_of_mapping,
    work_folder,
)
from app.services.mapping import complete_mapping, mapping_findings
from storage import datasets as stored
from storage.doctor.finding import ranked
from storage.doctor.order import Order
from storage.doctor.repairs import read_repairs
from storage.doctor.run import mend, try_repairs
from storage.errors import ConflictError, InvalidInputError
from storage.quotes import quoted
from storage.rows import stored_path
from storage.schema.dataset import DatasetVersion


def preview_repairs(
    context: AppContext, dataset_id: str, wishes: Any, mapping: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What repairs would change; nothing is stored.

    Args:
        context: The open stores.
        dataset_id: The dataset, in its latest version.
        wishes: `"safe"`, or a list of repairs; see `storage.doctor.repairs`.
        mapping: Fields of the mapping that the user has changed since.

    Returns:
        `version`, `repairs` and what `storage.doctor.treat` says of the difference: `rows_before`, `rows_after` (by
        part), `steps`, `changed_rows`, `left_out_rows`, `examples`, `removed_columns`.

    Raises:
        StudioError: There is no such dataset or repair, or nothing would be left.
    """
    version, order, _ = _ordered(context, dataset_id, wishes, mapping, is_trial=True)
    difference = try_repairs(order, work_folder(context))
    return {"version": version.number, "repairs": list(order.repairs), **difference}


def repair(
    context: AppContext,
    dataset_id: str,
    wishes: Any,
    mapping: Mapping[str, Any] | None = None,
) -> None:
    """Does repairs and keeps the result as a new version of the dataset.

    Args:
        context: The open stores.
        dataset_id: The dataset.
        wishes: `"safe"`, or a list of repairs.
        mapping: Fields of the mapping that the user has changed since.

    Raises:
        StudioError: It cannot be done; the dataset is as it was.
    """
    version, order, after = _ordered(context, dataset_id, wishes, mapping)
    if all(each["kind"] == "leave_out_of_prompt" for each in order.repairs):
        _keep_mapping(context, dataset_id, version, after, order)
        return
    treated = mend(order, context.store, work_folder(context), version.detected)
    after = _with_instruction(context, version, after, treated.table.blobs["train"], treated.table.columns)
    known = mapping_findings(after, treated.table.columns) + reading_findings(version.detected)
    found = ranked(known + treated.findings)
    done = [step["done"] for step in treated.difference["steps"]]
    with context.database.write() as session:
        _, latest = stored.get_dataset(session, dataset_id)
        if latest.id != version.id:
            raise ConflictError("The dataset was changed meanwhile. Look at the findings again.")
        stored.add_version(
            session,
            dataset_id,
            mapping=after,
            table=treated.table,
            findings=found,
            report=treated.report,
            origin={"kind": "repair", "of": version.number, "done": done, "repairs": [*order.repairs]},
        )


def _ordered(
    context: AppContext, dataset_id: str, wishes: Any, mapping: Mapping[str, Any] | None, *, is_trial: bool = False
) -> tuple[DatasetVersion, Order, dict[str, Any]]:
    """The latest version, what is to be done with it, and its mapping afterwards."""
    with context.database.read() as session:
        _, version = stored.get_dataset(session, dataset_id)
    whole = complete_mapping(mapping or {}, version.mapping)
    found = version.findings
    if whole != version.mapping or not all("repairs" in one for one in found):
        found, _ = examined(context, version.blobs, version.columns, whole, detected=version.detected)
    if any(one["code"] in ("unknown_target", "invalid_template") for one in found):
        raise InvalidInputError("The rows cannot be repaired before prompt and answer are chosen. Choose them first.")
    repairs = read_repairs(wishes, found, version.columns)
    after, columns = repaired_mapping(whole, version.columns, repairs)
    order = Order(
        paths=_paths(context, version),
        view=view_of_mapping(whole, version.columns),
        mapping={name: after[name] for name in ("validation_fraction", "seed")},
        repairs=repairs,
        after=view_of_mapping(after, columns),
        is_trial=is_trial,
    )
    return version, order, after


def _paths(context: AppContext, version: DatasetVersion) -> dict[Any, Path]:
    return {part: stored_path(context.store, sha256) for part, sha256 in version.blobs.items()}


def _keep_mapping(
    context: AppContext, dataset_id: str, version: DatasetVersion, after: dict[str, Any], order: Order
) -> None:
    found, report = examined(context, version.blobs, version.columns, after, detected=version.detected)
    named = ", ".join(quoted(name) for each in order.repairs for name in each.get("columns", []))
    origin = {"kind": "repair", "of": version.number, "done": [f"Took {named} out of the prompt."]}
    with context.database.write() as session:
        stored.add_version(session, dataset_id, mapping=after, findings=found, report=report, origin=origin)


def _with_instruction(
    context: AppContext, version: DatasetVersion, mapping: dict[str, Any], blob: str, columns: list[str]
) -> dict[str, Any]:
    """An instruction that was guessed from the classes is guessed anew where these were mended."""
    before = guessed(context, version.blobs["train"], version.columns)
    if not mapping["instruction"] or mapping["instruction"] != before["instruction"]:
        return mapping
    after = guessed(context, blob, columns)
    is_same_task = after["target"] == mapping["target"] and after["instruction"]
    return {**mapping, "instruction": after["instruction"]} if is_same_task else mapping
