"""Findings with their repairs, pictures of the table, and its versions: the doctor's part of the first step."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import datasets
from app.services.dataset_repairs import preview_repairs
from app.ui import doctor_view
from app.ui.pieces import html_piece

Updates = tuple[Any, ...]


class DoctorPanel:
    """The pieces and what fills them; `found` holds the findings that are shown."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.found = gr.State([])
        self.findings = html_piece(elem_id="train-findings")
        self.pictures = html_piece(elem_id="train-pictures")
        with gr.Accordion("Versions of this data", open=False, elem_id="train-versions-fold"):
            self.versions = html_piece(elem_id="train-versions")

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.found, self.findings, self.pictures, self.versions]

    @property
    def live(self) -> list[Any]:
        """What `show_live` fills."""
        return [self.found, self.findings, self.pictures]

    def show(self, dataset: Mapping[str, Any]) -> Updates:
        """What the doctor says of a dataset as it is stored."""
        listed = datasets.versions(self.context, dataset["id"])
        return (*self.show_live(dataset, dataset), doctor_view.versions(listed, dataset["id"]))

    def show_live(self, dataset: Mapping[str, Any], rendered: Mapping[str, Any]) -> Updates:
        """What it says of a mapping that is being written."""
        found, report = rendered["findings"], rendered["report"]
        target = rendered.get("mapping", dataset["mapping"])["target"]
        seen = doctor_view.findings(found, dataset["num_rows"], looked_at=report.get("looked_at"))
        return found, seen, doctor_view.pictures(report, target)

    def try_repairs(
        self, dataset: Mapping[str, Any], found: list[dict[str, Any]], asked: str, mapping: dict[str, Any]
    ) -> str:
        """The findings with what a repair would change beneath the button that was pressed.

        Raises:
            StudioError: It cannot be done.
        """
        tried = preview_repairs(self.context, dataset["id"], json.loads(asked), mapping)
        return doctor_view.findings(found, dataset["num_rows"], {**tried, "asked": asked})

    def repair(self, dataset: Mapping[str, Any], wish: str, mapping: dict[str, Any]) -> dict[str, Any]:
        """Does the repairs and returns the dataset in its new version."""
        return datasets.change(self.context, dataset["id"], {"repairs": json.loads(wish), "mapping": mapping})

    def go_back(self, dataset: Mapping[str, Any], number: str) -> dict[str, Any]:
        """Goes back to an earlier version; a second press of the same button finds that done."""
        newest = datasets.versions(self.context, dataset["id"])[0]
        if (newest["kind"], newest["of"]) == ("restored", int(number)):
            return datasets.describe(self.context, dataset["id"])
        return datasets.change(self.context, dataset["id"], {"version": int(number)})
