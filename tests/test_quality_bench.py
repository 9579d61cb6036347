"""The quality benchmark on tiny models: the same rows, as many examples, nothing trained twice, right arithmetic."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("peft")

from bench.quality.cells import Cell, CellStore, in_order
from bench.quality.finish import finish
from bench.quality.parts import PartSizes, prepare
from bench.quality.peer_training import peer_loss, train_peer, validation_loss
from bench.quality.peers import PEERS, Start, build, for_use
from bench.quality.plan import SweepPlan, spread
from bench.quality.report import METHODS, by_task, full_report, headline, judge_task, lines_of
from bench.quality.tasks import TASKS, TaskDataError
from bench.quality.trained import answers, row_losses
from bench.quality.workbench import Setup, Workbench
from tests.tiny import tiny_base_folder, tiny_tokenizer
from worker.engine.base import LoadedBase, load_base
from worker.engine.example import Example

ROWS = [Example(tuple(range(5, 9 + index)), tuple(range(20, 23 + index % 3))) for index in range(6)]
SIZES = PartSizes(train=16, validation=4, test=4)
SWEEP = SweepPlan((1e-3, 3e-3, 1e-2, 3e-2), max_steps=8, batch_size=4, num_train=6, eval_every=4, sweep_steps=2)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base_folder(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def base(base_folder: Path) -> LoadedBase:
    return load_base(base_folder, dtype="float32")


@pytest.fixture
def start(base_folder: Path, base: LoadedBase) -> Start:
    return Start(base_folder, base, num_virtual_tokens=4, text="Blue Spice serves cheap Italian food near the river.")


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks" / "rt_polarity"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("validation", 20), ("test", 20)):
        # Every part holds the prompts of the one before it too, and each prompt twice.
        rows = [f"film number {index % count},{('negative', 'positive')[index % 2]}" for index in range(2 * count)]
        (folder / f"{part}.csv").write_text("text,sentiment\n" + "\n".join(rows), encoding="utf-8")
    return folder.parent


@pytest.mark.parametrize("method", PEERS)
def test_a_trained_peer_has_the_loss_of_its_own_forward_when_the_engine_measures_it(method: str, start: Start) -> None:
    plan = SweepPlan((1e-2,), max_steps=2, batch_size=4, num_train=6, eval_every=1, sweep_steps=1)
    model = build(PEERS[method], start, seed=1)
    before = validation_loss(model, start.base, ROWS)
    trained = train_peer(PEERS[method], start, ROWS, ROWS, plan, seed=1)
    num_targets = sum(len(row.target_ids) for row in ROWS)

    assert sum(row_losses(trained.base, trained.bank, ROWS)) / num_targets == pytest.approx(
        trained.validation_loss, abs=1e-4
    )
    assert trained.best_step > 0
    assert trained.validation_loss < before


@pytest.mark.parametrize("method", ["peft_prefix_text", "peft_prompt", "peft_lora_8"])
def test_a_peers_loss_and_gradient_are_those_of_pefts_own_forward(method: str, start: Start) -> None:
    mine, theirs = (build(PEERS[method], start, seed=0) for _ in range(2))
    row = ROWS[0]
    input_ids = torch.tensor([row.prompt_ids + row.target_ids])
    labels = input_ids.clone()
    labels[:, : len(row.prompt_ids)] = -100
    loss = peer_loss(mine, start.base, [row]) / len(row.target_ids)
    expected = theirs(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), labels=labels).loss
    loss.backward()
    expected.backward()

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for parameter, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_prefix_from_text_and_cartridge_start_as_the_base_with_that_text_in_front(start: Start) -> None:
    prefix, cartridge = (build(PEERS[method], start, 0) for method in ("peft_prefix_text", "peft_cartridge_text"))
    assert validation_loss(prefix, start.base, ROWS) == pytest.approx(
        validation_loss(cartridge, start.base, ROWS), abs=1e-6
    )

    ids = start.base.tokenizer(start.text).input_ids[: start.num_virtual_tokens]
    with_text = [Example((*ids, *row.prompt_ids), row.target_ids) for row in ROWS]
    assert sum(row_losses(*for_use(prefix, start.base), ROWS)) == pytest.approx(
        sum(row_losses(start.base, None, with_text)), abs=1e-3
    )


def test_a_plan_halves_its_rates_at_every_rung() -> None:
    assert [(part.begin, part.end, part.num_alive) for part in SWEEP.segments()] == [(0, 2, 4), (2, 4, 2), (4, 8, 1)]
    assert SWEEP.num_examples == 3 * (2 * 4 + 2 * 2 + 4)


def test_rates_are_spread_at_equal_ratios() -> None:
    assert spread(1e-2, 1.0, 3) == (0.01, 0.1, 1.0)
    assert spread(1e-2, 1.0, 1) == (0.1,)


def test_a_peers_sweep_sees_the_planned_rows_and_keeps_the_best_rate(start: Start) -> None:
    trained = train_peer(PEERS["peft_lora_8"], start, ROWS, ROWS, SWEEP, seed=0)
    assert trained.num_examples == SWEEP.num_examples
    assert trained.learning_rate in SWEEP.rates


def test_parts_share_no_prompt_and_are_drawn_the_same_each_time(data_folder: Path) -> None:
    data = prepare(data_folder, TASKS["rt_polarity"], tiny_tokenizer(), SIZES)
    prompts = [{row.prompt_ids for row in part} for part in (data.train, data.validation, data.test)]

    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert len(prompts[2]) == len(data.test) == len(data.references) == SIZES.test
    assert prepare(data_folder, TASKS["rt_polarity"], tiny_tokenizer(), SIZES).sha256 == data.sha256


def test_absent_data_is_refused_with_the_option_to_set(tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match="Name the folder that holds the tasks with --data"):
        prepare(tmp_path, TASKS["rt_polarity"], tiny_tokenizer(), SIZES)


def test_a_peer_sees_no_fewer_rows_than_ours_and_tries_no_fewer_rates(base_folder: Path, data_folder: Path) -> None:
    bench = Workbench(Setup(base_folder, data_folder, "float32", SIZES, max_steps=20))
    ours, peer = (bench.run(Cell("rt_polarity", method, 0)) for method in ("ours", "peft_prefix_text"))

    assert ours["num_examples"] <= peer["num_examples"]
    assert len(peer["rates"]) > len(ours["rates"]) >= 1
    assert len(peer["row_losses"]) == len(peer["answers"]) == SIZES.test
    assert peer["data_sha256"] == ours["data_sha256"]
    json.dumps([ours, peer])


def test_terms_name_our_whole_recipe_and_what_a_peer_shares_with_it(base_folder: Path, data_folder: Path) -> None:
    short, longer = (Workbench(Setup(base_folder, data_folder, "float32", SIZES, steps)) for steps in (6, 20))
    ours, peer = Cell("rt_polarity", "ours", 0), Cell("rt_polarity", "peft_prompt", 0)

    assert json.loads(json.dumps(short.terms(ours))) == short.terms(ours) != longer.terms(ours)
    assert json.loads(json.dumps(short.terms(peer))) == short.terms(peer) != longer.terms(peer)
    assert "reparameterisation" in short.terms(ours)
    assert "reparameterisation" not in short.terms(peer)


def test_answers_stand_in_the_order_of_the_test_rows(base: LoadedBase, data_folder: Path) -> None:
    data = prepare(data_folder, TASKS["rt_polarity"], base.tokenizer, SIZES)
    together = answers(base, None, data)
    alone = [answers(base, None, replace(data, test=[row]))[0] for row in data.test]
    assert together == alone


class FakeWorkbench:
    """Notes what it is asked to train, and stops like a killed process after so many cells."""

    def __init__(self, stops_after: int | None = None, recipe: int = 1) -> None:
        self.asked: list[Cell] = []
        self._stops_after = stops_after
        self._recipe = recipe

    def terms(self, cell: Cell) -> dict[str, Any]:
        return {"recipe": self._recipe} if cell.method == "ours" else {}

    def run(self, cell: Cell) -> dict[str, Any]:
        if len(self.asked) == self._stops_after:
            raise KeyboardInterrupt
        self.asked.append(cell)
        return figures(0.5)


def figures(loss: float, *, num_examples: int = 100, rows: int = 40) -> dict[str, Any]:
    """Figures of a cell whose rows all lose about the same."""
    return {
        "row_losses": [loss * 2 + 0.001 * index for index in range(rows)],
        "row_tokens": [2] * rows,
        "row_scores": [1.0] * rows,
        "metric": "accuracy",
        "metrics": {"accuracy": 1.0},
        "num_examples": num_examples,
        "num_parameters": 10,
        "rates": [0.1],
        "learning_rate": 0.1,
        "best_step": 3,
        "seconds": 1.0,
        "data_sha256": "same",
        "dtype": "float32",
        "commit": "abc",
    }


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    cells = in_order(["a", "b"], ["ours", "peft_prompt"], [0, 1])
    first, second = FakeWorkbench(stops_after=3), FakeWorkbench()
    with pytest.raises(KeyboardInterrupt):
        finish(first, CellStore(tmp_path, {"rows": 1}), cells)
    finish(second, CellStore(tmp_path, {"rows": 1}), cells)

    assert first.asked + second.asked == cells
    assert [cell.seed for cell in cells[:4]] == [0, 0, 0, 0]


def test_another_recipe_trains_ours_anew_and_no_peer(tmp_path: Path) -> None:
    cells = in_order(["a"], ["ours", "peft_prompt"], [0])
    finish(FakeWorkbench(), CellStore(tmp_path, {}), cells)
    later = FakeWorkbench(recipe=2)
    finish(later, CellStore(tmp_path, {}), cells)
    finish(later, CellStore(tmp_path, {}), cells)
    assert later.asked == cells[:1]


def test_a_line_that_a_crash_cut_off_is_trained_again_and_spoils_nothing(tmp_path: Path) -> None:
    store = CellStore(tmp_path, {})
    store.add(Cell("a", "ours", 0), figures(1.0))
    path = tmp_path / "cells.jsonl"
    path.write_bytes(path.read_bytes() + b'{"task": "a", "met')
    assert list(store.records()) == [Cell("a", "ours", 0)]

    store.add(Cell("a", "peft_prompt", 0), figures(2.0))
    assert list(store.records()) == [Cell("a", "ours", 0), Cell("a", "peft_prompt", 0)]


def test_cells_of_other_settings_are_left_alone(tmp_path: Path) -> None:
    CellStore(tmp_path, {"rows": 1}).add(Cell("a", "ours", 0), figures(1.0))
    assert CellStore(tmp_path, {"rows": 2}).records() == {}


def test_a_cell_that_fails_is_told_and_left_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsOnce(FakeWorkbench):
        def run(self, cell: Cell) -> dict[str, Any]:
            if cell == Cell("a", "ours", 0):
                raise RuntimeError("the loss is no number")
            return super().run(cell)

    cells = in_order(["a", "b"], ["ours", "peft_prompt"], [0])
    assert finish(FailsOnce(), CellStore(tmp_path, {}), cells) == cells[:1]
    assert "a ours seed 0 failed" in caplog.text
    assert list(CellStore(tmp_path, {}).records()) == cells[1:]


def all_cells(store: CellStore, task: str, ours: float, best_prefix: float, lora: float, plus: float = 1.5) -> None:
    """Three seeds of every method; the best prefix of PEFT is the one from text."""
    losses = dict.fromkeys(METHODS, 9.0) | {"peft_prefix_text": best_prefix, "peft_lora_32": lora}
    losses |= {"ours": ours, "ours_plus": plus}
    for method, loss in losses.items():
        for seed in range(3):
            store.add(Cell(task, method, seed), figures(loss + 0.001 * seed))


def test_the_headline_counts_wins_losses_and_the_closed_gap(tmp_path: Path) -> None:
    store = CellStore(tmp_path, {})
    all_cells(store, "won", ours=1.4, best_prefix=2.0, lora=1.0)
    all_cells(store, "lost", ours=2.2, best_prefix=2.0, lora=1.0, plus=1.1)
    all_cells(store, "even", ours=2.0, best_prefix=2.0, lora=3.0)
    judged = {task: judge_task(methods) for task, methods in by_task(store.records()).items()}

    assert {task: (result or {})["verdict"] for task, result in judged.items()} == {
        "won": "win",
        "lost": "loss",
        "even": "tie",
    }
    assert judged["won"] is not None
    assert judged["won"]["best_peer"] == "peft_prefix_text"
    assert judged["won"]["loss_difference"]["value"] == pytest.approx(-0.6)
    # 0.6 of the way on the first task, 0.2 away from it on the second; on the third LoRA is no goal.
    assert headline(store.records()) == {
        "tasks": 3,
        "wins_vs_peft_prefix": 1,
        "losses_vs_peft_prefix": 1,
        "lora_gap_closed": pytest.approx(0.2),
        "lora_gap_closed_plus": pytest.approx(0.7),  # 0.5 and 0.9
    }


def test_an_unfinished_task_is_not_judged_and_an_unfinished_seed_left_out(tmp_path: Path) -> None:
    store = CellStore(tmp_path, {})
    all_cells(store, "won", ours=1.0, best_prefix=2.0, lora=1.0)
    before = headline(store.records())
    store.add(Cell("begun", "ours", 0), figures(1.0))
    store.add(Cell("won", "ours", 3), figures(99.0))
    assert headline(store.records()) == before
    assert before["tasks"] == 1


def test_a_stored_report_prints_the_same_table_as_a_fresh_one(tmp_path: Path) -> None:
    store = CellStore(tmp_path, {})
    all_cells(store, "won", ours=1.4, best_prefix=2.0, lora=1.0)
    store.add(Cell("begun", "ours", 0), figures(1.0))
    fresh = full_report(store.records())
    lines = lines_of(fresh)

    assert lines_of(json.loads(json.dumps(fresh))) == lines
    assert any(line.startswith("  win: ours less PEFT prefix from text: test loss -0.600") for line in lines)
    assert "  not complete yet" in lines
