"""The page's main path through `gradio_client`, as someone would script a Gradio app."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from tests.studio import Studio
from tests.tiny import tiny_base_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENDPOINTS = {"/upload_table", "/train", "/job", "/compare"}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "models").mkdir()
    tiny_base_folder(folder / "models" / "tiny-llama")
    with Studio(folder / "home", folder / "models") as studio:
        yield studio


@pytest.fixture(scope="module")
def client(studio: Studio) -> Client:
    return Client(studio.url, verbose=False)


def finished(client: Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.predict(job_id, api_name="/job")
        if job["status"] in ("succeeded", "failed"):
            return job
        time.sleep(0.3)
    raise AssertionError(f"the job did not end: {job}")


def test_page_offers_four_endpoints_and_no_event_of_its_own(client: Client) -> None:
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ENDPOINTS


def test_script_uploads_trains_and_compares(client: Client, tmp_path: Path) -> None:
    table = tmp_path / "colours.csv"
    table.write_text(
        "thing,colour\n" + "".join(f"thing {index},{'red' if index % 2 else 'blue'}\n" for index in range(40))
    )
    dataset = client.predict([handle_file(str(table))], api_name="/upload_table")
    assert (dataset["num_rows"], dataset["mapping"]["target"]) == (40, "colour")
    recipe = {"max_steps": 3, "num_virtual_tokens": 4}
    job = client.predict(dataset["id"], "tiny-llama", "colours", recipe, api_name="/train")
    assert finished(client, job["id"])["status"] == "succeeded"
    answers = client.predict("thing 1", ["tiny-llama", "colours"], 4, api_name="/compare")
    assert len(answers) == 2


def test_script_meets_the_same_sentences_as_the_page(client: Client) -> None:
    with pytest.raises(Exception, match="no dataset"):
        client.predict("nothing", "tiny-llama", "x", {}, api_name="/train")
