"""Four steps of the page for `gradio_client`, for those who script a Gradio app rather than call REST."""

from pathlib import Path
from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import datasets, inference, jobs
from app.ui.pieces import guarded


def offer_endpoints(blocks: gr.Blocks, context: AppContext, file: gr.File) -> None:
    """Names the endpoints and hides the page's own events from clients.

    Args:
        blocks: The page, with all of its events tied.
        context: What the services work with.
        file: The field that a table is dropped on; a client's file comes through the same checks.
    """
    for number, event in blocks.fns.items():
        event.api_visibility = "private"
        # Gradio would count the names of hidden events too, and call ours `compare_1`.
        event.api_name = f"page_{number}"

    def upload_table(paths: list[str]) -> dict[str, Any]:
        """Stores a table and says how it was read, with the guessed prompt and answer."""
        files = [Path(path) for path in paths]
        try:
            return datasets.upload(context, [(path.name, path) for path in files], None)
        finally:
            for path in files:
                path.unlink(missing_ok=True)

    def train(dataset_id: str, base_model: str, name: str, recipe: dict[str, Any]) -> dict[str, Any]:
        """Puts a training into the queue; an empty recipe leaves everything to the automatic one."""
        body = {"dataset_id": dataset_id, "base_model": base_model, "name": name, "recipe": recipe}
        return jobs.submit(context, body)

    def job(job_id: str) -> dict[str, Any]:
        """How a job stands."""
        return jobs.describe(context, job_id)

    def compare(prompt: str, models: list[str], max_tokens: int) -> list[str]:
        """The answer of each model to one prompt, from one batch."""
        texts = ["" for _ in models]
        for event in inference.compare_stream(context, {"prompt": prompt, "models": models, "max_tokens": max_tokens}):
            if "column" in event:
                texts[event["column"]] += event.get("text", "")
        return texts

    answer = gr.JSON(visible=False)
    gr.Button(visible=False).click(guarded(upload_table), file, answer, api_name="upload_table")
    for step in (train, job, compare):
        gr.api(guarded(step), api_name=step.__name__)
