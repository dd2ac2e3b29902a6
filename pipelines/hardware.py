"""The machine that a stage runs on: what it is, and how busy its GPUs are."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pipelines.processes import answer_of

GPU_LOAD = ("utilization.gpu", "memory.used", "memory.total", "power.draw")


def hardware() -> dict[str, Any]:
    """The machine: processor, cores that this process may use, memory in GiB, GPUs by name."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        # Asked of the driver's tool: torch would open a context, which costs memory on every GPU.
        "gpus": answer_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    }


def gpu_loads() -> list[dict[str, float]]:
    """Of each GPU what its driver tells: busy %, memory in 10^6 bytes and in %, watts."""
    query = f"--query-gpu={','.join(GPU_LOAD)}"
    told = answer_of("nvidia-smi", query, "--format=csv,noheader,nounits")
    return [_load(line.split(",")) for line in told.splitlines()]


def _load(cells: Sequence[str]) -> dict[str, float]:
    busy, used, total, power = map(_number, cells)
    values = {"utilization_percentage": busy, "power_usage_watts": power}
    if used is not None and total:
        values["memory_usage_megabytes"] = used * 2**20 / 1e6
        values["memory_usage_percentage"] = 100 * used / total
    return {name: value for name, value in values.items() if value is not None}


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # "[N/A]": this GPU does not tell
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
