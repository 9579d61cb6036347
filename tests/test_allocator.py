"""Freed memory stays with the process while it trains, and goes back when it is asked for."""

import subprocess
import sys

import pytest

FREED = """
import sys, torch
from pathlib import Path
from worker.engine.allocator import give_back_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

assert keep_freed_memory() == keep_freed_memory()
before = resident()
blocks = [torch.ones(4 << 20) for _ in range(8)]
del blocks
kept = resident() - before
give_back_memory()
print(kept, resident() - before)
"""
BLOCKS_BYTES = 8 * 4 * (4 << 20)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is told so on Linux with glibc alone")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 0.9 * BLOCKS_BYTES
    assert left < 0.1 * BLOCKS_BYTES
