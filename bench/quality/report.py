"""What the finished cells say: a block for each task, and the headline; knows no model and no data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.quality.cells import Cell, Record
from bench.quality.compare import loss_difference, mean_loss, score_difference
from bench.quality.ours import OUR_METHODS, OURS, OURS_PLUS
from bench.quality.peers import LORA_GOAL, PEERS, PREFIX_PEERS, PROMPT_PEERS

TITLES = {key: method.title for key, method in OUR_METHODS.items()} | {key: peer.title for key, peer in PEERS.items()}
METHODS = tuple(TITLES)

ByMethod = dict[str, list[Record]]


def by_task(records: Mapping[Cell, Record]) -> dict[str, ByMethod]:
    """Records of each task and method in the order of their seeds.

    Seeds that some method lacks are left out as soon as one seed of the task is complete.
    """
    tasks: dict[str, ByMethod] = {}
    for task in dict.fromkeys(cell.task for cell in records):
        cells = sorted((cell for cell in records if cell.task == task), key=lambda cell: cell.seed)
        complete = {cell.seed for cell in cells if all(Cell(task, method, cell.seed) in records for method in METHODS)}
        for cell in cells:
            if cell.seed in complete or not complete:
                tasks.setdefault(task, {}).setdefault(cell.method, []).append(records[cell])
    return tasks


def judge_task(methods: ByMethod) -> dict[str, Any] | None:
    """Ours against the best prefix or prompt of PEFT; None while no seed is complete.

    Returns:
        `best_peer`, `verdict` (`win`, `loss` or `tie`, by test loss), `loss_difference`, `score_difference` (ours less
        the peer's), and `gap_closed`: how much of the way from the best PEFT prefix to LoRA ours has gone, where LoRA
        is better beyond its own interval; `gap_closed_plus` is the same of what leaves PEFT's format.
    """
    if set(methods) != set(METHODS) or len({len(records) for records in methods.values()}) > 1:
        return None
    best_peer = min((*PREFIX_PEERS, *PROMPT_PEERS), key=lambda method: mean_loss(methods[method]))
    difference = loss_difference(methods[OURS], methods[best_peer])
    verdict = "win" if difference.high < 0 else "loss" if difference.low > 0 else "tie"
    return {
        "best_peer": best_peer,
        "verdict": verdict,
        "loss_difference": difference.to_dict(),
        "score_difference": score_difference(methods[OURS], methods[best_peer]).to_dict(),
        "gap_closed": _gap_closed(methods, OURS),
        "gap_closed_plus": _gap_closed(methods, OURS_PLUS),
    }


def headline(records: Mapping[Cell, Record]) -> dict[str, Any]:
    """The flat figures of the last line, over the tasks that are complete."""
    judged = [result for methods in by_task(records).values() if (result := judge_task(methods)) is not None]
    return {
        "tasks": len(judged),
        "wins_vs_peft_prefix": sum(result["verdict"] == "win" for result in judged),
        "losses_vs_peft_prefix": sum(result["verdict"] == "loss" for result in judged),
        "lora_gap_closed": _mean_share(judged, "gap_closed"),
        "lora_gap_closed_plus": _mean_share(judged, "gap_closed_plus"),
    }


def _mean_share(judged: Sequence[Mapping[str, Any]], name: str) -> float | None:
    shares = [result[name] for result in judged if result[name] is not None]
    return round(float(np.mean(shares)), 3) if shares else None


def full_report(records: Mapping[Cell, Record]) -> dict[str, Any]:
    """Everything that is kept in git: verdicts and figures of each cell, without its rows."""
    left_out = {
        "settings",
        "row_losses",
        "row_tokens",
        "row_scores",
        "answers",
        "task",
        "data_sha256",
        "dtype",
        "terms",
    }
    tasks = {}
    for task, methods in by_task(records).items():
        cells = [record for method in METHODS for record in methods.get(method, [])]
        tasks[task] = {
            "data_sha256": cells[0]["data_sha256"],
            "metric": cells[0]["metric"],
            "comparison": judge_task(methods),
            "cells": [
                {"test_loss": round(mean_loss([record]), 4)}
                | {key: value for key, value in record.items() if key not in left_out}
                for record in cells
            ],
        }
    return {**headline(records), "by_task": tasks}


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """The table of a report, fresh or stored."""
    lines = []
    for task, result in report["by_task"].items():
        lines += ["", f"{task} ({result['metric']})", *_method_lines(result["cells"])]
        if (comparison := result["comparison"]) is None:
            lines.append("  not complete yet")
            continue
        loss, score = comparison["loss_difference"], comparison["score_difference"]
        gap = comparison["gap_closed"]
        lines += [
            f"  {comparison['verdict']}: ours less {TITLES[comparison['best_peer']]}: test loss {loss['value']:+.3f} "
            f"[{loss['low']:+.3f}, {loss['high']:+.3f}], {result['metric']} {score['value']:+.3f} "
            f"[{score['low']:+.3f}, {score['high']:+.3f}]",
            "  LoRA r=32 is not better than the best PEFT prefix here"
            if gap is None
            else f"  share of the gap from the best PEFT prefix to LoRA r=32 that ours closes: {gap:.2f}; "
            f"with prefix tuning+ {comparison['gap_closed_plus']:.2f}",
        ]
    return lines


def _method_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"  {'':<34}{'test loss':>10}{'metric':>8}{'seeds':>7}{'trained':>10}{'examples':>10}{'s':>6}   rate"]
    for method in METHODS:
        mine = [cell for cell in cells if cell["method"] == method]
        if not mine:
            continue
        loss = float(np.mean([cell["test_loss"] for cell in mine]))
        score = float(np.mean([cell["metrics"][cell["metric"]] for cell in mine]))
        seconds = float(np.mean([cell["seconds"] for cell in mine]))
        examples = float(np.mean([cell["num_examples"] for cell in mine]))
        rates = ", ".join(f"{cell['learning_rate']:g}" for cell in mine)
        lines.append(
            f"  {TITLES[method]:<34}{loss:>10.3f}{score:>8.3f}{len(mine):>7}{mine[0]['num_parameters']:>10,}"
            f"{examples:>10,.0f}{seconds:>6.0f}   {rates}"
        )
    return lines


def _gap_closed(methods: ByMethod, mine: str) -> float | None:
    best_prefix = min(PREFIX_PEERS, key=lambda method: mean_loss(methods[method]))
    if loss_difference(methods[LORA_GOAL], methods[best_prefix]).high >= 0:
        return None
    start, goal = mean_loss(methods[best_prefix]), mean_loss(methods[LORA_GOAL])
    return round((start - mean_loss(methods[mine])) / (start - goal), 4)
