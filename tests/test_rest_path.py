"""The whole way through REST, with real processes: upload, train, follow, answer, compare, download, stop, end."""

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from safetensors.numpy import load, save

from storage.database import open_database
from storage.jobs import get_job
from storage.prefixes import list_prefixes
from storage.settings import read_settings
from tests.tiny import tiny_base_folder

PROJECT = Path(__file__).parents[1]
START_S = 60.0
TRAIN_S = 120.0
RECIPE = {"num_virtual_tokens": 8, "learning_rate": 0.05, "max_steps": 20, "batch_size": 8, "eval_every": 5, "seed": 1}
MAPPING = {"template": "food: {food}", "target": "text", "instruction": "Say what the place serves."}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Studio:
    """A running `python app.py`, and a client of its REST interface."""

    def __init__(self, folder: Path) -> None:
        tiny_base_folder(folder / "models" / "tiny")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.home = folder / "home"
        self.log = (folder / "log").open("w+")
        environment = {
            **os.environ,
            "PREFIX_STUDIO_HOME": str(self.home),
            "PREFIX_STUDIO_MODELS": str(folder / "models"),
            "PREFIX_STUDIO_PORT": str(port),
        }
        command = [sys.executable, str(PROJECT / "app.py")]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log, cwd=folder)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False)

    def wait_for(self, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.told()
            try:
                told: dict[str, Any] = self.http.get("/healthz").json()
                if told["status"] == state or state == "any":
                    return told
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.told())

    def told(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]

    def upload(self) -> dict[str, Any]:
        rows = "".join(f"food {number % 7},A place for food {number % 7}.\n" for number in range(60))
        files = {"file": ("food.csv", f"food,text\n{rows}".encode())}
        answer = self.http.post("/api/v1/datasets", files=files, data={"mapping": json.dumps(MAPPING)})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def submit(self, dataset_id: str, name: str, **recipe: Any) -> str:
        body = {"dataset_id": dataset_id, "base_model": "tiny", "name": name, "recipe": {**RECIPE, **recipe}}
        answer = self.http.post("/api/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def follow(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Reads the stream of events until the job has ended."""
        events = []
        with self.http.stream("GET", f"/api/v1/jobs/{job_id}/events") as answer:
            kind = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    events.append((kind, json.loads(line.removeprefix("data: "))))
        assert events[-1][0] == "end"
        return events[:-1]

    def wait_until_running(self, job_id: str) -> None:
        deadline = time.monotonic() + TRAIN_S
        while (job := self.http.get(f"/api/v1/jobs/{job_id}").json())["step"] == 0:
            assert job["status"] in ("queued", "running"), job
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def stop(self) -> int:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.log.close()
        return code


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(tmp_path_factory.mktemp("studio"))
    yield studio
    if studio.process.poll() is None:
        studio.stop()


@pytest.fixture(scope="module")
def trained(studio: Studio) -> dict[str, Any]:
    """A job that was followed to its end, with its dataset and its events."""
    studio.wait_for("ok")
    dataset = studio.upload()
    job_id = studio.submit(dataset["id"], "Food places")
    events = studio.follow(job_id)
    job = studio.http.get(f"/api/v1/jobs/{job_id}").json()
    return {"dataset": dataset, "events": events, "job": job}


def test_page_answers_and_every_role_comes_up(studio: Studio) -> None:
    studio.wait_for("any")
    assert studio.http.get("/").status_code == 200
    roles = studio.wait_for("ok")["roles"]
    assert {name: role["state"] for name, role in roles.items()} == dict.fromkeys(
        ("web", "dispatcher", "inference"), "ready"
    )


def test_upload_is_understood(trained: dict[str, Any]) -> None:
    dataset = trained["dataset"]
    assert (dataset["columns"], dataset["num_rows"], dataset["blocked"]) == (["food", "text"], 60, False)
    assert dataset["mapping"]["template"] == MAPPING["template"]


def test_job_succeeds_and_its_events_tell_the_whole_way(trained: dict[str, Any]) -> None:
    job = trained["job"]
    assert (job["status"], job["step"], job["error"]) == ("succeeded", 20, None)
    assert job["metrics"]["base_unchanged"] is True
    assert job["metrics"]["validation_loss"] < job["metrics"]["base_loss"]
    steps = [data["step"] for kind, data in trained["events"] if kind == "step"]
    assert steps == list(range(1, 21))
    states = [data["data"]["status"] for kind, data in trained["events"] if kind == "state"]
    assert states == ["queued", "running", "succeeded"]


def test_prefix_is_in_the_library(studio: Studio, trained: dict[str, Any]) -> None:
    prefix = studio.http.get(f"/api/v1/prefixes/{trained['job']['prefix_id']}").json()
    assert (prefix["name"], prefix["base_model"], prefix["num_virtual_tokens"]) == ("Food places", "tiny", 8)
    assert len(prefix["base_fingerprint"]) == 64
    assert prefix["size_bytes"] > 0


def test_base_and_prefix_complete_through_the_openai_interface(studio: Studio, trained: dict[str, Any]) -> None:
    models = {each["id"] for each in studio.http.get("/v1/models").json()["data"]}
    assert {"tiny", "Food places"} <= models
    texts = []
    for model in ("tiny", "Food places"):
        body = {"model": model, "prompt": "food: food 3", "max_tokens": 12, "temperature": 0}
        answer = studio.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        texts.append(answer.json()["choices"][0]["text"])
    assert texts[0] != texts[1]


def test_comparison_gives_a_column_for_each(studio: Studio, trained: dict[str, Any]) -> None:
    body = {"prompt": "food: food 3", "models": ["tiny", "Food places"], "max_tokens": 8, "temperature": 0}
    answer = studio.http.post("/v1/compare", json=body)
    assert answer.status_code == 200, answer.text
    with studio.http.stream("POST", "/v1/compare", json={**body, "stream": True}) as stream:
        columns = {json.loads(line[6:]).get("column") for line in stream.iter_lines() if line.startswith("data: {")}
    assert {0, 1} <= columns


def test_download_is_a_zip_with_the_peft_folder_and_a_card(studio: Studio, trained: dict[str, Any]) -> None:
    answer = studio.http.get(f"/api/v1/prefixes/{trained['job']['prefix_id']}/download")
    assert answer.status_code == 200
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names


@pytest.fixture(scope="module")
def plus(studio: Studio, trained: dict[str, Any]) -> dict[str, Any]:
    """The prefix of a job that also trains what stands outside attention's softmax."""
    job_id = studio.submit(trained["dataset"]["id"], "Plus", method="prefix-tuning-plus")
    studio.follow(job_id)
    job = studio.http.get(f"/api/v1/jobs/{job_id}").json()
    assert (job["status"], job["method"], job["error"]) == ("succeeded", "prefix-tuning-plus", None)
    assert job["metrics"]["base_unchanged"] is True
    assert job["metrics"]["validation_loss"] < job["metrics"]["base_loss"]
    return dict(studio.http.get(f"/api/v1/prefixes/{job['prefix_id']}").json())


def first_token(studio: Studio, model: str, **more: Any) -> dict[str, float]:
    """The likeliest first tokens of an answer, with their log-probabilities."""
    body = {"model": model, "prompt": "food: food 3", "max_tokens": 1, "temperature": 0, "logprobs": 5, **more}
    answer = studio.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["choices"][0]["logprobs"]["top_logprobs"][0])


def without_what_stands_outside(content: bytes) -> bytes:
    """The same zip with zeros in the second half of its table."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(changed, "w") as copy:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "prefix.safetensors":
                table = load(data)["prompt_embeddings"].copy()
                table[len(table) // 2 :] = 0
                data = save({"prompt_embeddings": table})
            copy.writestr(name, data)
    return changed.getvalue()


def test_prefix_outside_the_softmax_answers_and_at_no_strength_is_the_base(
    studio: Studio, trained: dict[str, Any], plus: dict[str, Any]
) -> None:
    plain = studio.http.get(f"/api/v1/prefixes/{trained['job']['prefix_id']}").json()
    assert (plus["method"], plus["num_virtual_tokens"]) == ("prefix-tuning-plus", 8)
    assert plus["num_parameters"] == 2 * plain["num_parameters"]
    assert first_token(studio, "Plus", strength=0) == first_token(studio, "tiny")
    content = studio.http.get(f"/api/v1/prefixes/{plus['id']}/download").content
    half = without_what_stands_outside(content)
    imported = studio.http.post("/api/v1/prefixes", files={"file": ("half.zip", half)}).json()
    told = [first_token(studio, model) for model in ("tiny", "Plus", "Plus@5", imported["name"])]
    assert len({tuple(each.values()) for each in told}) == 4
    models = ["tiny", "Plus", {"model": "Plus", "strength": 0}]
    body = {"prompt": "food: food 3", "models": models, "max_tokens": 8, "temperature": 0}
    texts = [column["text"] for column in studio.http.post("/v1/compare", json=body).json()]
    assert texts[0] == texts[2] != texts[1]


def test_prefix_outside_the_softmax_answers_a_table(studio: Studio, plus: dict[str, Any]) -> None:
    files = {"file": ("foods.csv", b"id,food\n1,food 1\n2,food 2\n")}
    answer = studio.http.post(f"/api/v1/prefixes/{plus['id']}/answers", files=files)
    assert answer.status_code == 201, answer.text
    studio.follow(answer.json()["id"])
    path = f"/api/v1/prefixes/{plus['id']}/answers/{answer.json()['id']}"
    rows = list(csv.DictReader(io.StringIO(studio.http.get(f"{path}/download").text)))
    assert [list(row) for row in rows] == [["id", "food", "answer"]] * 2
    body = {"prompt": "food: food 2", "max_tokens": 64, "temperature": 0}
    texts = [studio.http.post("/v1/completions", json={**body, "model": name}).json() for name in ("Plus", "tiny")]
    prefixed, alone = (each["choices"][0]["text"] for each in texts)
    assert rows[1]["answer"].strip() in prefixed
    assert rows[1]["answer"].strip() not in alone


def test_prefix_outside_the_softmax_goes_out_and_comes_back(studio: Studio, plus: dict[str, Any]) -> None:
    path = f"/api/v1/prefixes/{plus['id']}"
    studio.http.patch(path, json={"name": "Plus, renamed"})
    content = studio.http.get(f"{path}/download").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sorted(archive.namelist()) == ["README.md", "prefix-studio.json", "prefix.safetensors"]
    kept = stored_hashes(studio)
    assert studio.http.delete(path).status_code == 204
    imported = studio.http.post("/api/v1/prefixes", files={"file": ("prefix.zip", content)}).json()
    assert (imported["name"], imported["method"]) == ("Plus, renamed", "prefix-tuning-plus")
    assert stored_hashes(studio)[imported["id"]] == kept[plus["id"]]


def stored_hashes(studio: Studio) -> dict[str, str]:
    """The file of each prefix, by its SHA-256."""
    database = open_database(read_settings({"PREFIX_STUDIO_HOME": str(studio.home)}))
    with database.read() as session:
        hashes = {prefix.id: prefix.artifact_hash for prefix in list_prefixes(session)}
    database.close()
    return hashes


def test_running_job_stops_with_and_without_its_prefix(studio: Studio, trained: dict[str, Any]) -> None:
    kept, discarded = (
        studio.submit(trained["dataset"]["id"], name, max_steps=20_000, eval_every=5_000) for name in ("kept", "gone")
    )
    for job_id, keep, status in ((kept, True, "succeeded"), (discarded, False, "cancelled")):
        studio.wait_until_running(job_id)
        assert studio.http.post(f"/api/v1/jobs/{job_id}/stop", json={"keep": keep}).status_code == 200
        studio.follow(job_id)
        job = studio.http.get(f"/api/v1/jobs/{job_id}").json()
        assert (job["status"], bool(job["prefix_id"])) == (status, keep), job["error"]
        assert job["stopped_early"] is keep


def test_job_goes_on_when_its_trainer_is_killed(studio: Studio, trained: dict[str, Any]) -> None:
    job_id = studio.submit(trained["dataset"]["id"], "survivor", max_steps=20_000, eval_every=5_000)
    studio.wait_until_running(job_id)
    for child in psutil.Process(studio.process.pid).children(recursive=True):
        if child.cmdline()[-1:] == ["worker.trainer"] or "--assign" in child.cmdline():
            child.kill()
    deadline = time.monotonic() + TRAIN_S
    while True:
        job = studio.http.get(f"/api/v1/jobs/{job_id}").json()
        if job["attempt"] == 2 and job["metrics"].get("loss") and job["stage"] == "Training":
            break
        assert time.monotonic() < deadline, studio.told()
        time.sleep(0.1)
    studio.http.post(f"/api/v1/jobs/{job_id}/stop", json={"keep": True})
    studio.follow(job_id)
    assert studio.http.get(f"/api/v1/jobs/{job_id}").json()["status"] == "succeeded"
    assert any("was killed" in line for line in studio.http.get(f"/api/v1/jobs/{job_id}/log").json()["lines"])


def test_web_and_dispatcher_load_no_torch(studio: Studio, trained: dict[str, Any]) -> None:
    roles = {}
    for child in psutil.Process(studio.process.pid).children():
        roles[child.cmdline()[-1]] = any("libtorch" in each.path for each in child.memory_maps())
    assert roles == {"app.web": False, "worker.dispatcher": False, "worker.inference.server": True}


def test_signal_ends_every_process_and_a_running_job_goes_back_to_the_queue(
    studio: Studio, trained: dict[str, Any]
) -> None:
    job_id = studio.submit(trained["dataset"]["id"], "interrupted", max_steps=20_000, eval_every=5_000)
    studio.wait_until_running(job_id)
    family = psutil.Process(studio.process.pid).children(recursive=True)
    assert len(family) >= 4
    assert studio.stop() == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    database = open_database(read_settings({"PREFIX_STUDIO_HOME": str(studio.home)}))
    with database.read() as session:
        job = get_job(session, job_id)
    database.close()
    assert (job.status, job.lost_attempts) == ("queued", 0)
    assert job.step > 0
