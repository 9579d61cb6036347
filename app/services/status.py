"""The one line at the top of the page: what computes here, what is free, what waits."""

import os
from typing import Any

import psutil

from app.context import AppContext
from app.services import jobs
from app.services.inference import device_name


def status_line(context: AppContext) -> str:
    """Device, free memory and the state of the queue, in one line."""
    free = psutil.virtual_memory().available / 1e9
    return f"{_device(context)} · {free:.1f} GB of memory free · {work_line(jobs.listing(context))}"


def work_line(listed: list[dict[str, Any]]) -> str:
    """What runs and waits: trainings, and tables that are answered.

    Args:
        listed: Jobs, as `jobs.listing` gives them.
    """
    running = [each["kind"] for each in listed if each["status"] == "running"]
    queued = sum(each["status"] == "queued" for each in listed)
    parts = [f"{running.count(kind)} {kind}" for kind in ("training", "answering") if kind in running]
    return ", ".join([*(parts or ["no job is running"]), *([f"{queued} waiting"] if queued else [])])


def _device(context: AppContext) -> str:
    name = device_name(context)
    return name if name and name != "CPU" else f"CPU, {os.cpu_count()} cores"
