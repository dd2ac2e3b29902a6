"""Figures as Markdown, with what machine they come from."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import geometric_mean

import torch

from segcore.files import written_whole

ABSENT = "–"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float | None, digits: int = 0) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def ratio(above: float | None, below: float | None) -> float | None:
    """None where either is missing."""
    return None if above is None or below is None else above / below


def mean_ratio(ratios: Iterable[float | None]) -> float | None:
    """The geometric mean of those that are there."""
    known = [each for each in ratios if each is not None]
    return geometric_mean(known) if known else None


def machine(device: str, threads: int) -> str:
    """One line: what it was measured on, with what, when."""
    day = datetime.now(UTC).date().isoformat()
    if device == "cpu":
        what = f"{processor()}, {threads} threads of {os.cpu_count()} cores"
    else:
        what = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{what}; torch {torch.__version__}, Python {platform.python_version()}; {day}."


def processor() -> str:
    """The CPU's name, and which of the instructions that bfloat16 wants it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx512_bf16", "amx_bf16")
    extra = [each for each in wanted if each in fields.get("flags", "").split()]
    name = fields.get("model name", platform.machine())
    return f"{name} ({', '.join(extra) or 'no bfloat16 instructions'})"


def write(path: Path, *parts: str) -> None:
    """The parts as paragraphs."""
    with written_whole(path) as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
