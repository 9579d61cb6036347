"""The runner of one base: who is answered when, who leaves when, and what one caller's request means to others."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from storage.errors import BusyError, TooLargeError
from tests.tiny import tiny_base_folder
from worker.engine.bank import SlotPrefix
from worker.engine.base import LoadedBase, load_base
from worker.engine.rendering import Rendering
from worker.inference.batch import Column, Ended, Piece, Proof, batch_of
from worker.inference.fair_queue import FairQueue
from worker.inference.kept_prefixes import KeptPrefixes
from worker.inference.limits import Limits
from worker.inference.pace import FEWEST, MOST, Pace
from worker.inference.prepared import prepare
from worker.inference.prompts import RawPrompt
from worker.inference.registry import BaseEntry, PrefixEntry, Registry, Target
from worker.inference.requests import Sampling
from worker.inference.resident import Resident
from worker.inference.runner import Runner
from worker.inference.ticket import Ticket

BASE = BaseEntry("1", "tiny", Path(), "")
RENDERING = Rendering("plain", "", "")
PREFIXES = [
    PrefixEntry(f"prefix {index}", str(index), "prefix-tuning", 4 + index, "f" * 64, RENDERING, None)
    for index in range(3)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("runner"), "llama"), device="cpu")


@pytest.fixture
def resident(base: LoadedBase) -> Resident:
    made = Resident(base, "f" * 64, "tiny", cast(Registry, None))
    measured, generator = base.geometry, torch.Generator().manual_seed(2)
    for prefix in PREFIXES:
        shape = (measured.num_layers, 2, measured.num_kv_heads, prefix.num_virtual_tokens, measured.head_dim)
        kv = torch.randn(shape, generator=generator)
        outside = 0.5 * kv if prefix is PREFIXES[-1] else None
        made._kept.put(prefix.artifact_hash, SlotPrefix(kv, outside))
    return made


def column(prompt: str = "The waiter brought", prefix: int | None = None, **more: Any) -> Column:
    return Column(Target(BASE, None if prefix is None else PREFIXES[prefix]), RawPrompt(prompt), **more)


def sampling(max_tokens: int = 8, **more: Any) -> Sampling:
    return Sampling(**{"max_tokens": max_tokens, "temperature": 0.0, "top_p": 1.0, "seed": 1, "stop": (), **more})


async def tokens_of(ticket: Ticket) -> list[list[int]]:
    ids: list[list[int]] = []
    async for event in ticket.events():
        if isinstance(event, list):
            ids = [[] for _ in event]
        elif isinstance(event, Piece):
            ids[event.column].append(event.token_id)
    return ids


def ask(
    resident: Resident, requests: Sequence[tuple[Column, Sampling]], limits: Limits | None = None
) -> list[list[int]]:
    """Answers to requests that come at once."""

    async def all_of_them() -> list[list[list[int]]]:
        runner = Runner("tiny", lambda: resident, limits=limits)
        tickets = [runner.submit(batch_of([asked], settings)) for asked, settings in requests]
        return await asyncio.gather(*map(tokens_of, tickets))

    return [answers[0] for answers in asyncio.run(all_of_them())]


def test_requests_of_many_users_get_in_one_batch_what_each_gets_alone(resident: Resident) -> None:
    prompts = ("The waiter brought", "Is", "name: Blue Spice, food: Italian")
    requests = [
        (
            column(prompts[number % 3], (None, 0, 1, 2)[number % 4], strength=(1.0, 0.5)[number % 2]),
            sampling(3 + number, temperature=(0.0, 1.1)[number % 2], seed=number),
        )
        for number in range(12)
    ]
    together = ask(resident, requests, Limits(hold_s=0.001, alone_hold_s=0.001))
    assert together == [ask(resident, [request])[0] for request in requests]


def test_newcomer_is_answered_while_others_stream(resident: Resident) -> None:
    async def ask_late() -> None:
        runner = Runner("tiny", lambda: resident)
        long = runner.submit(batch_of([column()], sampling(200)))
        events = long.events()
        await anext(events)
        await anext(events)
        assert len((await tokens_of(runner.submit(batch_of([column(prefix=0)], sampling(3)))))[0]) == 3
        assert not long.is_cancelled()
        assert [event.tokens async for event in events if isinstance(event, Ended)] == [200]

    asyncio.run(ask_late())


def test_caller_who_leaves_frees_the_row_within_a_step(resident: Resident) -> None:
    async def leave() -> None:
        runner = Runner("tiny", lambda: resident, limits=Limits(max_rows=2, max_client_rows=2))
        streams = [runner.submit(batch_of([column()], sampling(230))).events() for _ in range(2)]
        for stream in streams:
            await anext(stream)
            await anext(stream)
        waiting = asyncio.ensure_future(tokens_of(runner.submit(batch_of([column()], sampling(2)))))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        answering = cast(Any, runner)._answering
        await streams[0].aclose()
        assert len((await waiting)[0]) == 2
        assert answering._rows.num_rows == 1
        await streams[1].aclose()

    asyncio.run(leave())


def test_one_refused_request_leaves_the_others_alone(resident: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[Any]:
        runner = Runner("tiny", lambda: resident)
        stranger = Column(
            Target(BASE, PrefixEntry("s", "s", "prefix-tuning", 4, "0" * 64, RENDERING, None)), RawPrompt("a")
        )
        asked = [[column()], [stranger], [column("word " * 400)], [column(prefix=1)]]
        tickets = [runner.submit(batch_of(columns, sampling(20))) for columns in asked]
        return await asyncio.gather(*map(tokens_of, tickets), return_exceptions=True)

    good, stranger, long, other = asyncio.run(run())
    assert len(good[0]) == len(other[0]) == 20
    assert "fingerprint" in str(stranger)
    assert "context" in str(long)


def test_comparison_is_proven_and_strength_zero_is_the_base(resident: Resident) -> None:
    async def compare() -> list[Any]:
        runner = Runner("tiny", lambda: resident)
        columns = [column(), column(prefix=0), column(prefix=0, strength=0.0)]
        ticket = runner.submit(batch_of(columns, sampling(6), has_proof=True))
        return [event async for event in ticket.events()]

    events = asyncio.run(compare())
    (proof,) = [event for event in events if isinstance(event, Proof)]
    assert proof.base_verified
    assert proof.prefix_kl is not None
    assert proof.prefix_kl > 0
    ids = [[e.token_id for e in events if isinstance(e, Piece) and e.column == index] for index in range(3)]
    assert ids[0] == ids[2] != ids[1]
    assert [started.prefix_tokens for started in events[0]] == [0, 4, 0]


def test_strength_that_is_asked_for_is_the_one_that_is_computed(resident: Resident) -> None:
    strengths = (0.0, 0.3, 1.0)
    prepared = prepare(resident, batch_of([column(prefix=0, strength=each) for each in strengths], sampling()))
    assert [row.strength for row in prepared.rows] == list(strengths)
    assert [prefix is None for prefix in prepared.prefixes] == [True, False, False]


def test_one_client_leaves_room_for_others_and_clients_take_turns(resident: Resident) -> None:
    order: list[str] = []

    async def one(runner: Runner, client: str, max_tokens: int) -> None:
        async for event in runner.submit(batch_of([column()], sampling(max_tokens)), client).events():
            if isinstance(event, list):
                order.append(client)

    all_are_there = threading.Event()

    def load() -> Resident:
        assert all_are_there.wait(10)
        return resident

    async def crowd() -> None:
        runner = Runner("tiny", load, limits=Limits(max_rows=4, max_client_rows=2))
        clients = ["greedy"] * 6 + ["modest", "other"]
        asked = [asyncio.ensure_future(one(runner, client, 40)) for client in clients]
        await asyncio.sleep(0.01)
        all_are_there.set()
        await asyncio.gather(*asked)

    asyncio.run(crowd())
    assert sorted(order[:4]) == ["greedy", "greedy", "modest", "other"]
    assert len(order) == 8


def test_queue_takes_turns_between_clients_and_drops_who_left() -> None:
    async def run() -> None:
        waiting = FairQueue()
        work = cast(Any, lambda resident, cancelled: iter(()))
        tickets = [Ticket(work, client) for client in "aaabbc"]
        for ticket in tickets:
            waiting.put(ticket)
        taken = []
        for _ in range(3):
            taken.append(waiting.heads()[0])
            assert waiting.take(taken[-1])
        assert [ticket.client for ticket in taken] == ["a", "b", "c"]
        assert not waiting.take(taken[0])
        assert [ticket.client for ticket in waiting.heads()] == ["a", "b"]
        tickets[1].cancel()
        assert waiting.drop_cancelled() == 1
        assert waiting.take(tickets[2])
        assert waiting.take(tickets[4])
        assert len(waiting) == 0

    asyncio.run(run())


def test_full_queue_refuses_but_makes_whoever_has_most_waiting_give_way() -> None:
    gate = threading.Event()

    def blocked(resident: Any, cancelled: Callable[[], bool]) -> Any:
        yield 0
        gate.wait(5)

    async def first(ticket: Ticket) -> Any:
        events: AsyncGenerator[Any, None] = ticket.events()
        return await anext(events)

    async def run() -> None:
        runner = Runner("fake", lambda: cast(Resident, object()), limits=Limits(max_open=4))
        running = runner.submit(blocked, "greedy")
        assert await first(running) == 0
        own = [runner.submit(blocked, "greedy") for _ in range(3)]
        with pytest.raises(BusyError, match="4 requests are open for 'fake'"):
            runner.submit(blocked, "greedy")
        runner.submit(blocked, "modest")
        with pytest.raises(BusyError, match="4 requests are open"):
            await first(own[-1])
        with pytest.raises(BusyError, match="4 requests are open"):
            runner.submit(blocked, "modest")
        gate.set()

    asyncio.run(run())


def test_prompt_beyond_the_memory_of_a_row_is_refused_and_answers_are_cut_to_it(resident: Resident) -> None:
    geometry = resident.base.geometry
    column_bytes = geometry.num_layers * 2 * geometry.num_kv_heads * geometry.head_dim * 4
    resident.cache_bytes = 4 * 30 * column_bytes
    assert resident.max_row_columns == 30
    answered = ask(resident, [(column("Is"), sampling(200))])[0]
    assert len(answered) == 30 - len(resident.base.tokenizer("Is").input_ids)
    with pytest.raises(TooLargeError, match="there is memory for 29 now"):
        ask(resident, [(column("name: Blue Spice, food: Italian " * 4), sampling())])


def test_rows_wait_while_the_memory_of_the_batch_is_full(resident: Resident) -> None:
    geometry = resident.base.geometry
    resident.cache_bytes = 500 * geometry.num_layers * 2 * geometry.num_kv_heads * geometry.head_dim * 4
    most: list[int] = []

    async def run() -> None:
        runner = Runner("tiny", lambda: resident)

        async def one() -> None:
            async for _ in runner.submit(batch_of([column("Is")], sampling(100))).events():
                most.append(cast(Any, runner)._answering._rows.num_rows)

        await asyncio.gather(*(one() for _ in range(7)))

    asyncio.run(run())
    assert max(most) == 4


def test_unloading_answers_what_is_under_way_and_then_loads_anew(resident: Resident) -> None:
    loads: list[int] = []

    def load() -> Resident:
        loads.append(1)
        return resident

    async def run() -> None:
        gone = threading.Event()
        runner = Runner("tiny", load, on_unload=gone.set)
        events = runner.submit(batch_of([column()], sampling(60))).events()
        await anext(events)
        runner.unload()
        late = asyncio.ensure_future(tokens_of(runner.submit(batch_of([column()], sampling(3)))))
        assert len([event async for event in events if isinstance(event, Piece)]) == 60
        assert len((await late)[0]) == 3
        assert gone.is_set()
        assert len(loads) == 2
        thread = cast(Any, runner)._thread
        runner.unload()
        await asyncio.to_thread(thread.join, 5)
        assert not runner.is_loaded
        assert not thread.is_alive()

    asyncio.run(run())


def test_prefixes_used_longest_ago_make_room() -> None:
    kept = KeptPrefixes(max_bytes=100)
    for name in "abcd":
        kept.put(name, torch.zeros(10, dtype=torch.float32))
        if name == "b":
            assert kept.get("a") is not None
    assert [name for name in "abcd" if kept.get(name) is not None] == ["c", "d"]
    assert kept.num_bytes == 80
    kept.put("large", torch.zeros(1000))
    assert [name for name in ("c", "d", "large") if kept.get(name) is not None] == ["large"]


def test_pace_reads_fewer_tokens_while_others_write() -> None:
    pace = Pace(hold_s=0.1, alone_hold_s=0.5)
    for _ in range(20):
        pace.learn(100, 0.1)
    assert pace.max_prompt_tokens(num_writing=1) == pytest.approx(100, abs=1)
    assert pace.max_prompt_tokens(num_writing=0) == pytest.approx(500, abs=5)
    assert pace.max_prompt_tokens(num_writing=1, num_reading=15) == pytest.approx(500, abs=5)
    assert pace.max_prompt_tokens(num_writing=8, num_reading=8) == pytest.approx(100, abs=1)
    for _ in range(40):
        pace.learn(100, 100.0)
    assert pace.max_prompt_tokens(num_writing=1) == FEWEST
    for _ in range(80):
        pace.learn(1000, 1e-9)
    assert pace.max_prompt_tokens(num_writing=1) == MOST
