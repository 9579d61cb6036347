"""Trainers as child processes: warm ones, slots, deaths, the end of their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.children import spawn, stop
from worker.devices import find_devices
from worker.executor import LocalExecutor
from worker.training.assignment import Assignment

FAKE_TRAINER = """
import os, sys, time
out = open(sys.argv[1], "a", buffering=1)
if "--assign" in sys.argv:
    line = " ".join(sys.argv[sys.argv.index("--assign") + 1:])
    out.write("cold ")
else:
    out.write("waiting\\n")
    line = sys.stdin.readline().strip()
    if not line:
        sys.exit(0)
    out.write("warm ")
out.write(f"{line} on {os.environ.get('CUDA_VISIBLE_DEVICES')} with {os.environ['OMP_NUM_THREADS']}\\n")
time.sleep(float(line.rpartition(":")[2]) / 10)
sys.exit(int(line.startswith("bad")) * 3)
"""


def until(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)


class Bench:
    """An executor with a fake trainer, and what those trainers wrote."""

    def __init__(self, folder: Path, devices: tuple[str | None, ...] = (None,)) -> None:
        self.told = folder / "told"
        self.told.touch()
        command = [sys.executable, "-c", FAKE_TRAINER, str(self.told)]
        self.executor = LocalExecutor(folder / "trainer.log", devices, command)

    def lines(self) -> list[str]:
        return self.told.read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.executor.stop(timeout_s=5)


def test_job_goes_to_the_warm_trainer(bench: Bench) -> None:
    bench.executor.keep_warm()
    bench.executor.keep_warm()
    until(lambda: bench.lines() == ["waiting"])
    bench.executor.start([Assignment("job", 1)])
    until(lambda: len(bench.lines()) == 2)
    assert bench.lines()[1].startswith("warm job:1 on")
    assert bench.executor.free_slots() == 0


def test_job_starts_without_a_warm_trainer(bench: Bench) -> None:
    bench.executor.start([Assignment("job", 1)])
    until(lambda: bool(bench.lines()))
    assert bench.lines()[0].startswith("cold job:1")


def test_job_starts_anew_where_the_warm_trainer_died(bench: Bench) -> None:
    bench.executor.keep_warm()
    until(lambda: bench.lines() == ["waiting"])
    child = bench.executor._warm[None]
    child.kill()
    child.wait()
    bench.executor.start([Assignment("job", 1)])
    until(lambda: len(bench.lines()) == 2)
    assert bench.lines()[1].startswith("cold job:1")


def test_next_trainer_gets_ready_behind_one_that_works_for_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.executor.start([Assignment("job", 50)])
    bench.executor.keep_warm()
    assert None not in bench.executor._warm
    monkeypatch.setattr("worker.executor.SPARE_AFTER_S", 0.0)
    bench.executor.keep_warm()
    until(lambda: "waiting" in bench.lines())


@pytest.mark.parametrize("is_warm", [True, False])
def test_jobs_of_one_pass_go_to_one_trainer_and_end_with_it(bench: Bench, is_warm: bool) -> None:
    if is_warm:
        bench.executor.keep_warm()
        until(lambda: bench.lines() == ["waiting"])
    assignments = [Assignment("a", 1), Assignment("b", 1)]
    bench.executor.start(assignments)
    assert bench.executor.free_slots() == 0
    until(lambda: "a:1 b:1 on" in bench.told.read_text())
    bench.executor.kill(Assignment("b", 1))
    assert [ended.assignment for ended in bench.executor.ended()] == assignments
    assert bench.executor.free_slots() == 1


def test_end_of_a_trainer_is_told_once_with_its_exit_code(bench: Bench) -> None:
    bench.executor.start([Assignment("bad", 1)])
    until(lambda: bench.executor._busy[None].child.poll() is not None)
    (ended,) = bench.executor.ended()
    assert (ended.assignment, ended.exit_code) == (Assignment("bad", 1), 3)
    assert bench.executor.ended() == []
    assert bench.executor.free_slots() == 1


def test_killed_trainer_is_told_of_like_any_other(bench: Bench) -> None:
    bench.executor.start([Assignment("job", 500)])
    bench.executor.kill(Assignment("other", 500))
    assert bench.executor.ended() == []
    bench.executor.kill(Assignment("job", 500))
    (ended,) = bench.executor.ended()
    assert ended.assignment == Assignment("job", 500)
    assert ended.exit_code in (-signal.SIGTERM, -signal.SIGKILL)


def test_each_device_takes_one_job_and_shows_only_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("0", "1"))
    bench.executor.start([Assignment("a", 5)])
    bench.executor.start([Assignment("b", 5)])
    assert bench.executor.free_slots() == 0
    until(lambda: len(bench.lines()) == 2)
    assert {line.split(" on ")[1][0] for line in bench.lines()} == {"0", "1"}
    bench.executor.stop(timeout_s=5)


def test_one_core_is_left_for_the_page(bench: Bench) -> None:
    bench.executor.start([Assignment("job", 1)])
    until(lambda: bool(bench.lines()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert bench.lines()[0].endswith(f"with {max(1, (cores or 1) - 1)}")


def test_trainers_of_several_devices_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.executor.count_cpus", lambda: 9)
    bench = Bench(tmp_path, ("0", "1", "2"))
    bench.executor.start([Assignment("a", 1)])
    until(lambda: bool(bench.lines()))
    assert bench.lines()[0].endswith("with 2")
    bench.executor.stop(timeout_s=5)


def test_every_gpu_becomes_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices(lambda fields: [["0"], ["1"], ["2"]]) == ["0", "1", "2"]
    assert find_devices(lambda fields: []) == [None]


def test_visible_devices_become_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 3")
    assert find_devices() == ["0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_devices() == [None]


def test_stopping_kills_a_child_that_does_not_listen() -> None:
    ignores = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    child = spawn([sys.executable, "-c", ignores], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    stop([child], timeout_s=0.2)
    assert child.returncode == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_child_ends_with_a_parent_that_is_killed() -> None:
    parent_code = (
        "import sys, time; from storage.children import spawn\n"
        "print(spawn([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_alive(child))


def test_child_of_a_system_that_tells_it_nothing_sees_that_its_parent_is_gone() -> None:
    child_code = (
        "import time; from storage.children import end_with_parent; end_with_parent(0.05);"
        "print(__import__('os').getpid(), flush=True); time.sleep(60)"
    )
    parent_code = (
        "import sys, time; sys.platform = 'darwin'; from storage.children import spawn\n"
        f"spawn([sys.executable, '-c', {child_code!r}]); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_alive(child))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
