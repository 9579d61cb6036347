"""How fast files are read: rows per second beside pandas and datasets, memory of web and reader, time to the preview.

`python -m bench.data [--quick]` writes a table of a million rows and one of 1 GB (with `--quick` smaller ones), reads
each by turns with `storage.tables.parse.parse_upload`, `pandas.read_csv` and `datasets.load_dataset`, and uploads both
to a running web role. Each reading is a process of its own, whose imports are not counted; our reader waits for its
file with its own done, as in the web role. Ours also checks every byte, hashes every cell and syncs its file to the
disk. The last line is one JSON object: `speed_vs_slower_peer` (rows per second over those of the slower peer, the
median of paired ratios, the lower of the two files), `peak_memory_mb` (web role and reader together while a file is
uploaded, read and examined) and `preview_s` (until the first rows of the larger file are there).
"""

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.data_memory import peak_memory_mb
from storage.tables.reader_process import ReaderProcesses

READERS = ("ours", "pandas", "datasets")
PREVIEWS = 5
IDLE_S = 0.4
TEXT = (
    "the card that i ordered has not arrived yet and my account shows a payment which was never made so please tell me "
    "how long it takes until the money is back or what else can be done about it today thanks"
)
LABELS = ("card arrival", "lost card", "top up", "exchange rate", "transfer", "refund")


def write_table(path: Path, *, rows: int | None = None, size_bytes: int | None = None, words: int = 16) -> int:
    """Writes a CSV file as people have them: texts with commas, some quoted, some over two lines, and a label.

    Args:
        path: The file.
        rows: How many rows it gets; or else
        size_bytes: how many bytes at most.
        words: Words of a text on average.

    Returns:
        Its rows.
    """
    generator = random.Random(0)
    texts = [
        " ".join(generator.choices(TEXT.split(), k=generator.randint(words // 2, words * 3 // 2))) for _ in range(5000)
    ]
    texts = [
        f'{text}, "{text[:9]}"' if place % 6 == 0 else f"{text}\n{text[:30]}" if place % 11 == 0 else text
        for place, text in enumerate(texts)
    ]
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        while count != rows:
            writer.writerow([f"{count} {generator.choice(texts)}", generator.choice(LABELS)])
            count += 1
            if size_bytes is not None and count % 1000 == 0 and file.tell() > size_bytes - 2_000_000:
                break
    return count


def read_once(reader: str, path: Path, folder: Path) -> float:
    """Seconds that one reader takes for a file; the imports come before."""
    if reader == "pandas":
        import pandas

        began = time.perf_counter()
        pandas.read_csv(path)
    elif reader == "datasets":
        import datasets

        datasets.disable_progress_bars()
        began = time.perf_counter()
        datasets.load_dataset("csv", data_files=str(path), split="train", cache_dir=str(folder / "cache"))
    else:
        from storage.artifacts import ArtifactStore
        from storage.settings import read_settings
        from storage.tables.parse import parse_upload

        store = ArtifactStore(read_settings({"PREFIX_STUDIO_HOME": str(folder)}))
        processes = _warm_processes()
        began = time.perf_counter()
        parse_upload([(path.name, path)], store, folder=folder / "uploads", processes=processes)
        seconds = time.perf_counter() - began
        processes.close()
        return seconds
    return time.perf_counter() - began


def _warm_processes() -> ReaderProcesses:
    """What the web role has: a reader that waits with its imports done."""
    processes = ReaderProcesses(keep_warm=True)
    processes.warm_up()
    wait_until_idle()
    return processes


def wait_until_idle() -> None:
    """Waits until the processes that this one started compute no more."""
    before = -1.0
    while before != (now := sum(sum(each.cpu_times()[:2]) for each in psutil.Process().children())):
        before = now
        time.sleep(IDLE_S)


def timed(reader: str, path: Path) -> float:
    """The same in a process of its own, with a folder that vanishes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "bench.data", "--read", reader, str(path), folder]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(path: Path, num_rows: int, rounds: int) -> float:
    """Median over rounds of our rows per second over those of the slower peer; prints all figures."""
    times: dict[str, list[float]] = {reader: [] for reader in READERS}
    for turn in range(rounds):
        # Another one begins each time, so that none always finds the machine as the same other left it.
        for reader in (*READERS[turn % 3 :], *READERS[: turn % 3]):
            times[reader].append(timed(reader, path))
    print(f"{path.name}: {num_rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB")
    for reader, seconds in times.items():
        rate = num_rows / statistics.median(seconds)
        print(f"  {reader:>9} {rate:>12,.0f} rows/s   {', '.join(f'{each:.2f}' for each in seconds)} s")
    pairs = zip(*times.values(), strict=True)
    return statistics.median(max(peers) / ours for ours, *peers in pairs)


def preview_s(path: Path) -> float:
    """Median seconds until the first rows of a file are there."""
    from storage.tables.parse import preview_upload

    seconds = []
    processes = _warm_processes()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for _ in range(PREVIEWS):
            began = time.perf_counter()
            assert preview_upload([(path.name, path)], folder=Path(folder), processes=processes)["rows"]
            seconds.append(time.perf_counter() - began)
            wait_until_idle()
    processes.close()
    return statistics.median(seconds)


def measure(quick: bool, rounds: int) -> dict[str, float]:
    """Writes the files and takes all figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = folder / "million.csv", folder / "gigabyte.csv"
        small_rows = write_table(small, rows=300_000 if quick else 1_000_000)
        large_rows = write_table(large, size_bytes=100_000_000 if quick else 1_000_000_000, words=150)
        rounds = min(rounds, 3) if quick else rounds
        ratios = [compare(small, small_rows, rounds), compare(large, large_rows, rounds)]
        figures = {"speed_vs_slower_peer": min(ratios), "preview_s": preview_s(large)}
        figures["peak_memory_mb"] = max(peak_memory_mb(path, folder) for path in (small, large))
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Prints the figures, and the JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller files, in at most two minutes")
    parser.add_argument("--rounds", type=int, default=5, help="how often each reader reads each file")
    parser.add_argument("--read", nargs=3, metavar=("READER", "FILE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        reader, path, folder = given.read
        print(read_once(reader, Path(path), Path(folder)))
        return
    print(json.dumps(measure(given.quick, given.rounds)))


if __name__ == "__main__":
    main()
