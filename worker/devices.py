"""What this machine computes on, asked without torch: cores, GPUs, and how much memory is free on them."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from worker.engine.memory import available_memory

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 10.0
MEBIBYTE = 2**20
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
BFLOAT16_CAPABILITY = 8.0
"""Compute capability of the first NVIDIA GPUs that compute in bfloat16."""

Query = Callable[[str], list[list[str]]]
"""Asks for fields of all GPUs, separated by commas, and gives the values of each GPU."""


class DeviceMemory(Protocol):
    """Says how much memory is free; tests answer in its place."""

    def free_bytes(self, device: str | None) -> int | None:
        """Free memory of a GPU, or of the machine (None); None where nobody can tell."""


class MachineMemory:
    """Reads the memory of this machine, and that of its NVIDIA GPUs from nvidia-smi.

    Args:
        query: Asks the GPUs.
    """

    def __init__(self, query: Query | None = None) -> None:
        self._query = query or query_gpus

    def free_bytes(self, device: str | None) -> int | None:
        """See `DeviceMemory`; a GPU is named by its index or its UUID, as in CUDA_VISIBLE_DEVICES."""
        if device is None:
            return available_memory()
        for index, uuid, free_mebibytes in self._query("index,uuid,memory.free"):
            if device == index or uuid.startswith(device):
                return int(free_mebibytes) * MEBIBYTE
        return None


def find_devices(query: Query | None = None) -> list[str | None]:
    """The slots of this machine: one for each NVIDIA GPU that this process may use, else a single one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()] or [None]
    return [index for (index,) in (query or query_gpus)("index")] or [None]


def query_gpus(fields: str) -> list[list[str]]:
    """Fields of every NVIDIA GPU of this machine; empty where there is none, or where its driver does not answer."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi does not answer (%s); the GPUs are taken for absent", error)
        return []
    return [[value.strip() for value in line.split(",")] for line in told.splitlines() if line.strip()]


def count_cpus() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_format(precision: str, stored: str | None, device: str | None) -> str:
    """What a base model will be computed in: `worker.engine.base.choose_dtype`, foretold without torch.

    Args:
        precision: Of the recipe.
        stored: Number format of the weights on disk, as config.json names it.
        device: The GPU, or None for the CPU.
    """
    if precision in ("float32", "bfloat16"):
        return precision
    if device is None:
        is_fast = precision == "auto" and stored == "bfloat16" and cpu_has_bfloat16()
    else:
        is_fast = gpus_have_bfloat16()
    return "bfloat16" if is_fast else "float32"


@cache
def cpu_has_bfloat16(path: Path = CPU_INFO) -> bool:
    """Whether the processor multiplies in bfloat16 by instructions of its own, as Linux tells."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    return any(BFLOAT16_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))


@cache
def gpus_have_bfloat16(query: Query = query_gpus) -> bool:
    """Whether every GPU of this machine computes in bfloat16."""
    told = query("compute_cap")
    return bool(told) and all(float(capability) >= BFLOAT16_CAPABILITY for (capability,) in told)
