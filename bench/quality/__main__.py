"""Quality beside PEFT at equal examples seen, on a test part that was frozen beforehand.

`python -m bench.quality` trains every cell (task, method, seed) that its state folder lacks, prints the table, and once
all are there writes `docs/benchmarks/quality.json`; stopped, it goes on where it was. `--report` prints what there is;
`--quick` trains one small cell of each method and prints the stored figures. The last line is one JSON object: `tasks`,
`wins_vs_peft_prefix`, `losses_vs_peft_prefix`, `lora_gap_closed` and `lora_gap_closed_plus`.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.quality.cells import Cell, CellStore, Record, in_order
from bench.quality.finish import finish
from bench.quality.parts import DATA_SEED, PartSizes
from bench.quality.provenance import ROOT, hardware, weights_sha256
from bench.quality.report import METHODS, TITLES, full_report, headline, lines_of
from bench.quality.tasks import TASKS, TaskDataError
from bench.quality.workbench import Setup, Workbench
from storage.children import spawn, stop

STORED = ROOT / "docs" / "benchmarks" / "quality.json"
SEEDS = (0, 1, 2)
QUICK_TASK, QUICK_STEPS, QUICK_SIZES = "sms_spam", 4, PartSizes(train=32, validation=8, test=8)


def main() -> None:
    """Does what the options ask for."""
    options = _options()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        if options.quick:
            quick(options)
        elif options.report:
            report(options, _store(options, _setup(options)).records())
        else:
            run(options)
    except TaskDataError as error:
        sys.exit(str(error))


def run(options: argparse.Namespace) -> None:
    """Trains what is missing, here or in several processes, then reports."""
    setup = _setup(options)
    if options.processes > 1 and not options.shard:
        is_whole = _run_in_children(options.processes)
    else:
        index, count = (int(part) for part in (options.shard or "0/1").split("/"))
        cells = in_order(options.tasks, options.methods, options.seeds)
        groups = list(dict.fromkeys((cell.seed, cell.task) for cell in cells))
        # The seed is added so that each process gets the long tasks in turn.
        mine = {group for number, group in enumerate(groups) if (number + group[0]) % count == index}
        own = [cell for cell in cells if (cell.seed, cell.task) in mine]
        is_whole = not finish(Workbench(setup), _store(options, setup), own)
    if not options.shard:
        report(options, _store(options, setup).records())
    if not is_whole:
        sys.exit("Some cells failed; see above. The same command tries them again.")


def report(options: argparse.Namespace, records: dict[Cell, Record]) -> None:
    """Prints the table, and keeps it once every cell of the whole benchmark is there."""
    result = full_report(records)
    print("\n".join(lines_of(result)))
    is_complete = set(in_order(list(TASKS), METHODS, SEEDS)) <= set(records)
    if options.save or is_complete:
        STORED.parent.mkdir(parents=True, exist_ok=True)
        STORED.write_text(json.dumps(_kept(options, records, result), indent=1) + "\n", encoding="utf-8")
        print(f"\nkept in {STORED.relative_to(ROOT)}")
    print(json.dumps(headline(records)))


def quick(options: argparse.Namespace) -> None:
    """A smoke run of each method, then the figures of the last full run."""
    # On a busy machine two threads wait for each other longer than so small a pass takes.
    torch.set_num_threads(1)
    setup = Setup(options.base, options.data, "float32", QUICK_SIZES, QUICK_STEPS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if finish(Workbench(setup), CellStore(Path(folder), {}), in_order([QUICK_TASK], METHODS, SEEDS[:1])):
                sys.exit("A method failed; see above.")
    except TaskDataError as error:
        print(f"No smoke run: {error}")
    if not STORED.exists():
        print("No full run is kept yet; start one with python -m bench.quality.")
        print(json.dumps(headline({})))
        return
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    print(f"\nThe last full run: {stored['hardware']}, commit {', '.join(stored['commits'])}, {stored['date']}")
    print("\n".join(lines_of(stored)))
    print(json.dumps({name: stored[name] for name in headline({})}))


def _kept(options: argparse.Namespace, records: dict[Cell, Record], result: dict[str, Any]) -> dict[str, Any]:
    about = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commits": sorted({record["commit"] for record in records.values()}),
        "hardware": hardware(),
        "torch": torch.__version__,
        "dtypes": sorted({record["dtype"] for record in records.values()}),
        "seeds": sorted({cell.seed for cell in records}),
        "minutes": round(sum(record["seconds"] for record in records.values()) / 60, 1),
        "settings": _settings(options, _setup(options)),
    }
    return {**headline(records), **about, "methods": TITLES, **result}


def _run_in_children(count: int) -> bool:
    """Two processes of one thread get more done on two cores than one process of two: the matrices are small.

    Returns:
        Whether every cell was trained.
    """
    threads = str(max((os.cpu_count() or 1) // count, 1))
    command = [sys.executable, "-m", "bench.quality", *sys.argv[1:]]
    children = [
        spawn([*command, "--shard", f"{index}/{count}"], environment={"OMP_NUM_THREADS": threads})
        for index in range(count)
    ]
    try:
        codes = [child.wait() for child in children]
    finally:
        stop(children, timeout_s=5.0)
    return not any(codes)


def _setup(options: argparse.Namespace) -> Setup:
    sizes = PartSizes(options.train_rows, options.validation_rows, options.test_rows)
    return Setup(options.base, options.data, options.dtype, sizes, options.max_steps)


def _settings(options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """What a cell depends on, beside the code."""
    return {
        "base_sha256": weights_sha256(options.base),
        "dtype": setup.dtype,
        "data_seed": DATA_SEED,
        "max_steps": setup.max_steps,
        **asdict(setup.sizes),
    }


def _store(options: argparse.Namespace, setup: Setup) -> CellStore:
    return CellStore(options.state, _settings(options, setup))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smoke run of each method, then the stored figures")
    parser.add_argument("--report", action="store_true", help="print what the state folder holds, train nothing")
    parser.add_argument("--save", action="store_true", help="keep the report even if cells are missing")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "tasks", help="folder of tasks")
    parser.add_argument("--base", type=Path, default=ROOT / "worker" / "starter", help="folder of the base model")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "quality", help="folder of finished cells")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the base")
    parser.add_argument("--processes", type=int, default=1, help="cells trained at once")
    sizes = PartSizes()
    parser.add_argument("--train-rows", type=int, default=sizes.train)
    parser.add_argument("--validation-rows", type=int, default=sizes.validation)
    parser.add_argument("--test-rows", type=int, default=sizes.test)
    parser.add_argument("--max-steps", type=int, help="steps of our recipe instead of the automatic number")
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
