"""The one line at the top of the page: what computes here, what is free, what waits."""

import os

import psutil

from app.context import AppContext
from app.services import jobs
from app.services.inference import device_name


def status_line(context: AppContext) -> str:
    """Device, free memory and the state of the queue, in one line."""
    states = [each["status"] for each in jobs.listing(context)]
    running, queued = states.count("running"), states.count("queued")
    work = "nothing is training" if not running else f"{running} training"
    waiting = f", {queued} waiting" if queued else ""
    free = psutil.virtual_memory().available / 1e9
    return f"{_device(context)} · {free:.1f} GB of memory free · {work}{waiting}"


def _device(context: AppContext) -> str:
    name = device_name(context)
    return name if name and name != "CPU" else f"CPU, {os.cpu_count()} cores"
