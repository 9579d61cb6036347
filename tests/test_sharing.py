"""Training and inference on one device: who gives memory up, who waits, who is refused. The CPU stands for a GPU."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from storage.database import Database
from storage.errors import BusyError
from storage.lease import Lease
from storage.schema.job import JobKind
from storage.settings import Settings
from tests.stored import add_job, claim
from worker.devices import MEBIBYTE, MachineMemory
from worker.inference.registry import BaseEntry
from worker.inference.sharing import LoadGuard, make_room, weight_bytes
from worker.room import MAX_WAIT_S, Room, ask_to_unload

GIGABYTE = 10**9


class Device:
    """Memory that loaded bases take, in place of a GPU's."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.holders: list[FakeRunner] = []
        self.trainings = 0

    def free(self) -> int:
        return self.total - self.trainings - sum(holder.size for holder in self.holders if holder.is_loaded)

    def free_bytes(self, device: str | None) -> int | None:
        return None if device == "unknown" else self.free()


class FakeRunner:
    """A base in memory, which goes at once when it is asked to."""

    def __init__(self, device: Device, name: str, size: int, *, is_idle: bool = True) -> None:
        self.name, self.size, self.is_idle, self.is_loaded = name, size, is_idle, True
        device.holders.append(self)

    def unload(self) -> None:
        self.is_loaded = False


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asking(device: Device):
    """The inference role at the other end, without its HTTP."""

    def ask(settings: Settings, needed_bytes: int) -> bool:
        return bool(asyncio.run(make_room(device.holders, needed_bytes, device.free))["in_use"])

    return ask


def test_idle_bases_go_only_as_far_as_a_training_needs(settings: Settings) -> None:
    device = Device(10 * GIGABYTE)
    oldest, newest = (FakeRunner(device, name, 3 * GIGABYTE) for name in ("oldest", "newest"))
    room = Room(settings, device, asking(device))
    assert room.is_there("a", None, 4 * GIGABYTE)
    assert (oldest.is_loaded, newest.is_loaded) == (True, True)
    assert room.is_there("b", None, 6 * GIGABYTE)
    assert (oldest.is_loaded, newest.is_loaded) == (False, True)


def test_training_waits_for_an_answer_to_end_but_not_for_ever(settings: Settings) -> None:
    device, clock = Device(10 * GIGABYTE), Clock()
    answering = FakeRunner(device, "answering", 8 * GIGABYTE, is_idle=False)
    room = Room(settings, device, asking(device), clock)
    assert not room.is_there("a", None, 4 * GIGABYTE)
    assert room.waits["a"].startswith("Waits for memory: it needs about 4.0 GB, and 2.0 GB are free while a base model")
    assert answering.is_loaded
    clock.now = MAX_WAIT_S / 2
    assert not room.is_there("a", None, 4 * GIGABYTE)
    answering.is_idle = True
    assert room.is_there("a", None, 4 * GIGABYTE)
    assert room.waits == {}
    assert not answering.is_loaded

    FakeRunner(device, "endless", 8 * GIGABYTE, is_idle=False)
    assert not room.is_there("b", None, 4 * GIGABYTE)
    clock.now += MAX_WAIT_S
    assert room.is_there("b", None, 4 * GIGABYTE)


def test_training_that_no_base_stands_in_the_way_of_starts_at_once(settings: Settings) -> None:
    device = Device(2 * GIGABYTE)
    room = Room(settings, device, asking(device))
    assert room.is_there("too large for the device", None, 4 * GIGABYTE)
    assert room.is_there("of unknown size", None, 0)
    assert room.is_there("on a device of unknown size", "unknown", 4 * GIGABYTE)


def test_where_memory_is_ample_or_no_inference_role_runs_nobody_is_asked(settings: Settings) -> None:
    def never(settings: Settings, needed_bytes: int) -> bool:
        raise AssertionError("it was asked")

    assert Room(settings, Device(10 * GIGABYTE), never).is_there("a", None, GIGABYTE)
    assert not ask_to_unload(settings, GIGABYTE)


def test_role_is_asked_with_its_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.inference_file.parent.mkdir(parents=True)
    settings.inference_file.write_text(json.dumps({"url": "http://127.0.0.1:1", "secret": "s3", "pid": 1}))
    asked = []

    def post(url: str, **options) -> httpx.Response:
        asked.append((url, options["json"], options["headers"]))
        return httpx.Response(200, json={"unloaded": [], "in_use": ["base"]}, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx, "post", post)
    assert ask_to_unload(settings, 7)
    expected = ("http://127.0.0.1:1/internal/unload", {"needed_bytes": 7}, {"X-Prefix-Studio-Secret": "s3"})
    assert asked == [expected]


@pytest.fixture
def base(tmp_path: Path) -> BaseEntry:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(8000))
    assert weight_bytes(folder) == 8000
    return BaseEntry("id", "tiny", folder, "state")


def running(database: Database) -> Lease:
    with database.write() as session:
        add_job(session)
    return claim(database)


def test_base_that_does_not_fit_beside_a_training_is_refused_with_both_numbers(
    database: Database, base: BaseEntry
) -> None:
    guard = LoadGuard(database, lambda: 9999, wait_s=0.1)
    guard.check(base)
    lease = running(database)
    with pytest.raises(BusyError, match=r"'tiny' needs about 0.0 GB of memory.* while a training runs.*pause it"):
        guard.check(base)
    LoadGuard(database, lambda: 10_000, wait_s=0.0).check(base)
    with database.write() as session:
        lease.cancel(session)
    guard.check(base)


def test_job_that_answers_a_table_keeps_no_base_out(database: Database, base: BaseEntry) -> None:
    with database.write() as session:
        add_job(session).kind = JobKind.ANSWERING
    claim(database)
    LoadGuard(database, lambda: 100, wait_s=0.0).check(base)
    running(database)
    with pytest.raises(BusyError, match="while a training runs"):
        LoadGuard(database, lambda: 100, wait_s=0.0).check(base)


def test_base_waits_for_a_training_that_gives_its_memory_back(database: Database, base: BaseEntry) -> None:
    running(database)
    free = iter([100, 100, 20_000])
    LoadGuard(database, lambda: next(free), wait_s=5.0).check(base)


def test_memory_of_a_gpu_is_found_by_index_and_by_uuid() -> None:
    memory = MachineMemory(lambda fields: [["0", "GPU-aa", "500"], ["1", "GPU-bb", "700"]])
    assert memory.free_bytes("1") == memory.free_bytes("GPU-bb") == 700 * MEBIBYTE
    assert memory.free_bytes("7") is None
    assert (memory.free_bytes(None) or 0) > 0
