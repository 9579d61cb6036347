"""The role as a process, and the threads in which base models live."""

import asyncio
import json
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from storage.artifacts import ArtifactStore
from storage.database import Database, open_database
from storage.errors import BusyError, NotFoundError, WrongBaseError
from storage.prefixes import find_prefix
from storage.settings import Settings, read_settings
from tests.running_role import (
    CHAT,
    NUM_VIRTUAL_TOKENS,
    PLAIN,
    PREFIX,
    SOFT_PROMPT,
    STRANGER,
    Role,
    fill_home,
    running_role,
    server_events,
)
from worker.engine.errors import InvalidPrefixFileError
from worker.inference.limits import Limits
from worker.inference.registry import Registry
from worker.inference.resident import Resident
from worker.inference.residents import MAX_LOADED, Residents
from worker.inference.runner import Runner
from worker.inference.server import announce, withdraw


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with running_role(tmp_path_factory.mktemp("role") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = read_settings({"PREFIX_STUDIO_HOME": str(tmp_path_factory.mktemp("filled"))})
    fill_home(settings)
    return settings


@pytest.fixture(scope="module")
def filled_database(filled: Settings) -> Iterator[Database]:
    database = open_database(filled)
    yield database
    database.close()


@pytest.fixture
def registry(filled: Settings, filled_database: Database) -> Registry:
    return Registry(filled_database, ArtifactStore(filled))


@pytest.fixture
def resident(filled: Settings, registry: Registry) -> Resident:
    return Residents(filled, registry)._load(registry.find(PLAIN).base)


def test_announcement_is_for_this_user_only_and_names_the_process(role: Role) -> None:
    path = role.settings.inference_file
    told = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert told["pid"] == role.process.pid
    assert told["url"].startswith("http://127.0.0.1:")
    assert len(told["secret"]) >= 32


@pytest.mark.parametrize("headers", [{}, {"X-Prefix-Studio-Secret": "guess"}, {"Authorization": "Bearer guess"}])
@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/v1/compare", "/nowhere"])
def test_call_without_the_secret_is_refused(role: Role, headers: dict[str, str], path: str) -> None:
    answer = httpx.get(role.url + path, headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"


def test_secret_opens_as_header_and_as_bearer_token(role: Role) -> None:
    for headers in ({"X-Prefix-Studio-Secret": role.secret}, {"Authorization": f"Bearer {role.secret}"}):
        answer = httpx.get(f"{role.url}/healthz", headers=headers, trust_env=False)
        assert answer.json()["status"] == "ready"


def test_unknown_route_answers_in_the_form_of_the_others(role: Role) -> None:
    with role.client() as client:
        answer = client.get("/v1/nowhere")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_base_is_loaded_when_it_is_first_asked(role: Role) -> None:
    with role.client() as client:
        assert CHAT not in client.get("/healthz").json()["loaded"]
        client.post("/v1/completions", json={"model": CHAT, "prompt": "a", "max_tokens": 1}).raise_for_status()
        assert CHAT in client.get("/healthz").json()["loaded"]


def test_prefix_made_while_the_role_runs_is_found(role: Role) -> None:
    database = open_database(role.settings)
    with database.write() as session:
        prefix = find_prefix(session, PREFIX)
        assert prefix is not None
        prefix.name = "renamed"
    with role.client() as client:
        body = {"model": "renamed", "prompt": "a", "max_tokens": 1}
        assert client.post("/v1/completions", json=body).status_code == 200
        assert client.post("/v1/completions", json={**body, "model": PREFIX}).status_code == 404
    with database.write() as session:
        find_prefix(session, "renamed").name = PREFIX  # type: ignore[union-attr]
    database.close()


def test_caller_who_leaves_frees_the_model_at_once(role: Role) -> None:
    body = {"model": PLAIN, "prompt": "Is", "max_tokens": 250, "stream": True, "temperature": 0}
    with role.client() as client:
        for _ in range(8):
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(server_events(answer.iter_lines()))
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json={**body, "stream": False}, timeout=httpx.Timeout(60, read=0.05))
        began = time.perf_counter()
        client.post("/v1/completions", json={**body, "stream": False, "max_tokens": 1}).raise_for_status()
        assert time.perf_counter() - began < 1.0


def test_sigterm_ends_the_role_and_removes_its_announcement(tmp_path: Path) -> None:
    with running_role(tmp_path / "home") as running:
        with running.client() as client:
            body = {"model": PLAIN, "prompt": "Is", "max_tokens": 250, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(server_events(answer.iter_lines()))
                running.process.send_signal(signal.SIGTERM)
                assert running.process.wait(timeout=15) == 0
        assert not running.settings.inference_file.exists()


def test_announcement_of_another_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "inference.json"
    announce(path, {"url": "http://127.0.0.1:1", "secret": "x", "pid": os.getpid() + 1})
    withdraw(path)
    assert path.exists()
    announce(path, {"url": "http://127.0.0.1:1", "secret": "x", "pid": os.getpid()})
    withdraw(path)
    assert not path.exists()


def test_prefixes_are_kept_in_memory_and_share_a_bank(resident: Resident, registry: Registry) -> None:
    prefixes = [registry.find(PREFIX).prefix, None, registry.find(SOFT_PROMPT).prefix, registry.find(PREFIX).prefix]
    bank, slots = resident.bank_for(prefixes)
    assert slots == [0, -1, 1, 0]
    assert bank is not None
    assert bank.lengths == (NUM_VIRTUAL_TOKENS, NUM_VIRTUAL_TOKENS)
    assert len(resident._kept) == 2
    again, _ = resident.bank_for(prefixes)
    assert again is not None
    assert torch.equal(again.kv, bank.kv)
    assert resident.bank_for([None]) == (None, [-1])


def test_prefix_of_other_weights_is_refused(resident: Resident, registry: Registry) -> None:
    with pytest.raises(WrongBaseError, match=r"'stranger' was trained .* fingerprint 0{16}, and 'tiny' has"):
        resident.bank_for([registry.find(STRANGER).prefix])


def test_damaged_and_missing_prefix_files_are_refused(resident: Resident, registry: Registry) -> None:
    prefix = registry.find(PREFIX).prefix
    assert prefix is not None
    path = registry.prefix_path(prefix)
    aside = path.with_suffix(".aside")
    shutil.copy(path, aside)
    try:
        path.write_bytes(b"no tensors here, but long enough for a header")
        with pytest.raises(InvalidPrefixFileError):
            resident.bank_for([prefix])
        path.unlink()
        with pytest.raises(NotFoundError, match="file of the prefix 'short answers' is gone"):
            resident.bank_for([prefix])
    finally:
        aside.replace(path)


class Loads:
    """A fake base that counts how often it was loaded."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Any:
        self.count += 1
        return object()


def counting(limit: int, steps: list[int]) -> Callable[[Any, Callable[[], bool]], Iterator[int]]:
    def work(resident: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        for step in range(limit):
            steps.append(step)
            yield step
            time.sleep(0.002)

    return work


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_batches_of_one_base_run_one_after_another() -> None:
    running: list[int] = []
    most: list[int] = []

    def work(resident: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        running.append(1)
        most.append(len(running))
        yield 1
        time.sleep(0.005)
        running.pop()

    async def ask() -> list[list[int]]:
        runner = Runner("fake", Loads())

        async def one() -> list[int]:
            return [event async for event in runner.submit(work).events()]

        return await asyncio.gather(*(one() for _ in range(10)))

    assert asyncio.run(ask()) == [[1]] * 10
    assert max(most) == 1


def test_cancelled_batch_ends_within_a_step_and_a_waiting_one_never_starts() -> None:
    steps: list[int] = []
    never: list[int] = []

    async def ask() -> None:
        runner = Runner("fake", Loads())
        ticket, waiting = runner.submit(counting(10_000, steps)), runner.submit(counting(5, never))
        events = ticket.events()
        assert await anext(events) == 0
        waiting.cancel()
        await events.aclose()
        wait_until(lambda: runner.is_idle)

    asyncio.run(ask())
    num_done = len(steps)
    time.sleep(0.05)
    assert len(steps) == num_done < 10_000
    assert never == []


def test_too_many_waiting_batches_are_refused() -> None:
    gate = threading.Event()

    def blocked(resident: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        yield 0
        gate.wait(5)

    async def ask() -> None:
        runner = Runner("fake", Loads(), limits=Limits(max_open=3))
        assert await anext(runner.submit(blocked).events()) == 0
        runner.submit(blocked)
        runner.submit(blocked)
        with pytest.raises(BusyError, match="3 requests are open for 'fake'"):
            runner.submit(blocked)
        gate.set()

    asyncio.run(ask())


def test_failed_batch_tells_its_caller_and_the_next_one_runs() -> None:
    def broken(resident: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        yield 0
        raise NotFoundError("It is gone.")

    def starved(resident: Any, cancelled: Callable[[], bool]) -> Iterator[int]:
        yield 0
        raise torch.OutOfMemoryError("no memory")

    loads = Loads()

    async def ask() -> list[int]:
        runner = Runner("fake", loads)
        with pytest.raises(NotFoundError, match="gone"):
            assert [event async for event in runner.submit(broken).events()] == []
        with pytest.raises(BusyError, match="too little free memory"):
            assert [event async for event in runner.submit(starved).events()] == []
        return [event async for event in runner.submit(counting(2, [])).events()]

    assert asyncio.run(ask()) == [0, 1]
    assert loads.count == 2, "out of memory lets the base go, so it is loaded again"


def test_base_that_cannot_be_loaded_is_told_and_tried_again() -> None:
    def fail() -> Any:
        raise NotFoundError("No such folder.")

    async def ask() -> None:
        runner = Runner("fake", fail)
        for _ in range(2):
            with pytest.raises(NotFoundError, match="No such folder"):
                await anext(runner.submit(counting(1, [])).events())

    asyncio.run(ask())


def test_idle_base_is_unloaded_and_loaded_again_on_demand() -> None:
    loads = Loads()

    async def ask() -> None:
        runner = Runner("fake", loads, idle_s=0.02)
        for expected in (1, 2):
            assert [event async for event in runner.submit(counting(2, [])).events()] == [0, 1]
            assert loads.count == expected
            await asyncio.to_thread(wait_until, lambda: not runner.is_loaded)

    asyncio.run(ask())


def test_third_base_makes_room_by_sending_off_the_one_used_longest_ago(filled: Settings, registry: Registry) -> None:
    residents = Residents(filled, registry)
    base = registry.find(PLAIN).base
    entries = [type(base)(id=str(number), name=f"base {number}", folder=base.folder, state="") for number in range(3)]

    async def ask() -> None:
        for entry in entries:
            ticket = residents.runner(entry).submit(counting(1, []))
            assert [event async for event in ticket.events()] == [0]
        await asyncio.to_thread(wait_until, lambda: residents.loaded() == ["base 1", "base 2"])

    asyncio.run(ask())


def test_bases_asked_for_at_once_never_stand_in_memory_together(filled: Settings, registry: Registry) -> None:
    residents = Residents(filled, registry)
    base = registry.find(PLAIN).base
    entries = [type(base)(id=str(number), name=f"base {number}", folder=base.folder, state="") for number in range(4)]
    most: list[int] = []

    async def ask(entry: Any) -> None:
        async for _ in residents.runner(entry).submit(counting(3, [])).events():
            most.append(len(residents._holding))

    async def ask_all() -> None:
        await asyncio.gather(*map(ask, entries))

    asyncio.run(ask_all())
    assert len(most) == 12
    assert max(most) <= MAX_LOADED


def test_base_whose_files_changed_gets_a_runner_of_its_own_and_the_old_one_ends(
    filled: Settings, registry: Registry
) -> None:
    residents = Residents(filled, registry)
    base = registry.find(PLAIN).base
    newer = replace(base, state="newer files")

    async def ask() -> None:
        old = residents.runner(base)
        assert [event async for event in old.submit(counting(1, [])).events()] == [0]
        assert [event async for event in residents.runner(newer).submit(counting(1, [])).events()] == [0]
        await asyncio.to_thread(wait_until, lambda: not old.is_loaded and residents.loaded() == [PLAIN])
        assert residents.runners() == [residents.runner(newer)]

    asyncio.run(ask())
