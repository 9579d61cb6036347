"""Step 2 of training: choose the base model, and fetch it where it is not on this machine."""

from typing import Any

import gradio as gr

from app.context import AppContext
from app.services import base_models
from app.ui import markup, model_view
from app.ui.pieces import LATEST, guarded, html_piece, in_turn, picked, sentence

FETCHING = ("requested", "downloading")

Updates = tuple[Any, ...]


class BaseStep:
    """The components of step 2; `chosen` holds the name of the base model."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.chosen = gr.State(None)
        gr.HTML(
            '<p class="ps-lead">The base model is never changed. A prefix belongs to the base it was trained on.</p>',
            apply_default_css=False,
        )
        self.cards = html_piece(elem_id="train-models")
        with gr.Accordion("More models, to download from the Hugging Face hub", open=False) as self.more_fold:
            with gr.Row(equal_height=False, elem_classes="ps-ends"):
                self.hub_id = gr.Textbox(
                    label="Any model by its id",
                    placeholder="HuggingFaceTB/SmolLM2-135M",
                    max_lines=1,
                    scale=4,
                    elem_id="train-hub-id",
                )
                self.check = gr.Button("Check", size="md", scale=1, min_width=96, elem_id="train-check-hub")
            self.hub_notice = html_piece(elem_id="train-hub-notice")
            self.more = html_piece(elem_id="train-more-models")
        self.state_line = html_piece(elem_id="train-model-state")
        with gr.Row():
            self.download = gr.Button("Download", visible=False, elem_id="train-download")
            self.cancel = gr.Button("Stop the download", visible=False, elem_id="train-cancel-download")
        with gr.Row():
            self.back = gr.Button("Back", elem_id="train-back-base")
            self.next = gr.Button("Continue", variant="primary", interactive=False, elem_id="train-continue-base")
        self.timer = gr.Timer(1.0, active=False)

    @property
    def shown(self) -> list[Any]:
        """What `show` fills."""
        return [
            self.chosen,
            self.cards,
            self.more,
            self.more_fold,
            self.state_line,
            self.download,
            self.cancel,
            self.next,
            self.timer,
        ]

    def wire(self) -> None:
        """Ties what the user does to the services."""
        for cards in (self.cards, self.more):
            picked_card = cards.select(guarded(self.choose), None, self.shown, **LATEST, concurrency_id="base-card")
            picked_card.then(lambda: "", None, self.hub_notice)
        started = self.download.click(guarded(self.start_download), self.chosen, self.shown)
        started.then(lambda: "", None, self.hub_notice)
        self.cancel.click(guarded(self.stop_download), self.chosen, self.shown)
        self.timer.tick(
            guarded(self.look_again), self.chosen, self.shown[1:], show_progress="hidden", **in_turn("base-card")
        )
        self.check.click(guarded(self.check_hub), self.hub_id, [*self.shown, self.hub_notice])
        self.hub_id.submit(guarded(self.check_hub), self.hub_id, [*self.shown, self.hub_notice])

    def choose(self, event: gr.EventData) -> Updates:
        """Takes the card that was pressed."""
        return self.show(picked(event)[1])

    def show(self, name: str | None) -> Updates:
        """Lists the base models; without a choice the first that can be used at once is taken."""
        models = base_models.listing(self.context)
        here = [each for each in models if each["download_state"] == "ready"]
        away = [each for each in models if each["download_state"] != "ready"]
        model = next((each for each in models if each["name"] == name), None) or _first_usable(here)
        chosen = model["name"] if model else None
        fold = gr.skip() if here else gr.Accordion(open=True)
        cards = model_view.model_cards(here, chosen), model_view.model_cards(away, chosen), fold
        if model is None:
            hidden = gr.Button(visible=False)
            return None, *cards, "", hidden, hidden, gr.Button(interactive=False), gr.skip()
        fetching = model["download_state"] in FETCHING
        usable = model["supported"] and model["download_state"] == "ready"
        can_fetch = model["supported"] and model["download_state"] in ("absent", "failed")
        size = f" ({markup.file_size(model['size_bytes'])})" if model.get("size_bytes") else ""
        return (
            chosen,
            *cards,
            model_view.download_line(model),
            gr.Button(f"Download{size}", visible=can_fetch),
            gr.Button(visible=fetching),
            gr.Button(interactive=usable),
            gr.Timer(active=any(each["download_state"] in FETCHING for each in away)),
        )

    def look_again(self, name: str | None) -> Updates:
        """The list as it stands now; the choice, which may have moved on meanwhile, is left alone."""
        return self.show(name)[1:]

    def start_download(self, name: str) -> Updates:
        """Asks for the chosen model; the dispatcher fetches it."""
        base_models.request_download(self.context, name)
        return self.show(name)

    def stop_download(self, name: str) -> Updates:
        """Ends a download that runs."""
        base_models.cancel_download(self.context, name)
        return self.show(name)

    def check_hub(self, hub_id: str) -> Updates:
        """Looks a hub id up and adds it to the list; refused, it leaves a choice alone that was made meanwhile."""
        try:
            model = base_models.add_hub_model(self.context, hub_id)
        except Exception as fault:
            return (*(gr.skip() for _ in self.shown), markup.notice(sentence(fault), "bad"))
        return (*self.show(model["name"]), markup.notice(f"{model['name']} is in the list.", "good"))


def _first_usable(models: list[dict[str, Any]]) -> dict[str, Any] | None:
    usable = [each for each in models if each["supported"]]
    return next(iter([each for each in usable if each["source"] == "starter"] + usable), None)
