"""What is kept on this machine, by kind, and the way to be rid of it."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models, datasets
from app.services import usage as usage_service
from app.ui import markup, prefix_view
from app.ui.pieces import LATEST, guarded, html_piece, picked

Updates = tuple[Any, ...]


class HousePanel:
    """Disk use, datasets and downloaded base models; everything here asks before it goes."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.doomed = gr.State(None)
        self.usage = html_piece(elem_id="house-usage")
        self.datasets = html_piece(elem_id="house-datasets")
        self.models = html_piece(elem_id="house-models")
        with gr.Group(visible=False) as self.choice:
            self.question = html_piece(elem_id="house-question")
            with gr.Row():
                self.keep = gr.Button("Keep it")
                self.confirm = gr.Button("Delete", variant="stop", elem_id="house-delete-confirm")

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [self.usage, self.datasets, self.models, self.choice]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        for piece in (self.usage, self.datasets, self.models):
            asked = [self.doomed, self.question, self.choice]
            piece.select(guarded(self.ask), None, asked, **LATEST, concurrency_id="ask-before-deleting")
        self.keep.click(lambda: gr.Group(visible=False), None, self.choice)
        gone = self.confirm.click(guarded(self.remove), self.doomed, None)
        gone.success(guarded(self.show), None, self.shown)

    def show(self) -> Updates:
        """Reads what there is."""
        rows = [
            [
                markup.isolated(each["name"]),
                markup.count(each["num_rows"], "row"),
                markup.action("Delete", kind="dataset", target=each["id"], tone="bad"),
            ]
            for each in datasets.listing(self.context)
        ]
        models = [each for each in base_models.listing(self.context) if each["download_state"] == "ready"]
        model_rows = [[markup.isolated(each["name"]), *_model_cells(each)] for each in models]
        return (
            prefix_view.usage(usage_service.by_kind(self.context)),
            _section("Data", ["Name", "Rows", ""], rows, "No data has been uploaded."),
            _section("Base models", ["Name", "Size", ""], model_rows, "No base model is on this machine."),
            gr.Group(visible=False),
        )

    def ask(self, event: gr.EventData) -> Updates:
        """Asks before anything is deleted."""
        kind, target = picked(event)
        words = {
            "cache": "Delete the token ids of large tables? The next training on one of them takes a little longer.",
            "dataset": f"Delete {self._dataset_name(target)} with all its versions? Prefixes trained on it stay.",
            "model": f"Delete the downloaded files of {target}? Its prefixes stay and work again once it is fetched.",
        }
        return (kind, target), markup.notice(words[kind], "warn"), gr.Group(visible=True)

    def _dataset_name(self, dataset_id: str) -> str:
        named = {each["id"]: each["name"] for each in datasets.listing(self.context)}
        return markup.isolated_text(named.get(dataset_id, "this data set"))

    def remove(self, doomed: tuple[str, str]) -> None:
        """Deletes what was asked for, unless something needs it."""
        kind, target = doomed
        if kind == "cache":
            usage_service.clear_tokens(self.context)
        elif kind == "dataset":
            datasets.remove(self.context, target)
        else:
            base_models.remove_files(self.context, target)


def _model_cells(model: dict[str, Any]) -> list[str]:
    size = markup.file_size(model.get("size_bytes") or 0)
    if model["source"] == "hub":
        return [size, markup.action("Delete files", kind="model", target=model["name"], tone="bad")]
    address = f"/api/v1/base-models/download-archive?name={markup.escape(model['name'])}"
    return [size, f'<a class="ps-action" href="{address}">Download</a>']


def _section(title: str, headers: list[str], rows: list[list[str]], nothing: str) -> str:
    body = markup.table(headers, rows, title) if rows else f'<p class="ps-lead">{markup.escape(nothing)}</p>'
    return f'<p class="ps-title">{markup.escape(title)}</p>{body}'
