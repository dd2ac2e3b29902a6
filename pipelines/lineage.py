"""Where a result comes from: code, person, machine, versions. For ``lineage.json`` and tags."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("segcore", "torch", "torchvision", "timm", "numpy", "ray", "mlflow", "dvc")


def lineage(root: Path) -> dict[str, Any]:
    """All of it as a JSON value; the commit is None where ``root`` is no git work tree."""
    return {
        "commit": git_commit(root),
        "dirty": git_dirty(root),
        "who": who(root),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": hardware(),
        "versions": versions(),
    }


def git_commit(root: Path) -> str | None:
    """The full hash of HEAD; None without git, a repository or a first commit."""
    return _answer("git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD") or None


def git_dirty(root: Path) -> bool:
    """Whether a file differs from HEAD or is new to git; ``dvc.lock``, a result, does not count."""
    return bool(_answer("git", "-C", str(root), "status", "--porcelain", "--", ".", ":!dvc.lock"))


def who(root: Path) -> str:
    """The person as git knows her, else the account."""
    return (
        _answer("git", "-C", str(root), "config", "user.name")
        or os.environ.get("USER")
        or f"user {os.getuid()}"
    )


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
        "gpus": _answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
    }


def versions() -> dict[str, str]:
    """Python and those of the packages that decide numbers and that are installed."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in PACKAGES if any(distributions(name=name))
    }


def _answer(*command: str) -> str:
    """What a command prints; empty where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def this_process() -> str:
    """Host, process id and start time: tells this process from a later one with the same id."""
    return f"{platform.node()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_alive(process: str) -> bool:
    """Whether a process named by ``this_process`` runs; taken for granted on another host."""
    host, _, rest = process.partition(":")
    identity, _, started = rest.partition(":")
    if host != platform.node() or not identity:
        return True
    try:
        return f"{psutil.Process(int(identity)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False
