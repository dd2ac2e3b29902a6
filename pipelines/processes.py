"""Other programs: what they say, where they are, whether the one that was meant still runs."""

import os
import platform
import subprocess

import psutil


def answer_of(*command: str) -> str:
    """What a command prints; empty where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_this_machine(address: str | None) -> bool:
    """Whether no other machine reaches what a cluster's address names; no address names none."""
    place = (address or "local").rpartition("/")[2]
    host = place.rpartition(":")[0] or place
    return host in ("local", "localhost", "[::1]") or host.startswith("127.")


def this_process() -> str:
    """Host, process id and start time: tells this process from a later one with the same id."""
    return f"{platform.node()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_alive(process: str) -> bool | None:
    """Whether a process named by ``this_process`` runs; None on another host."""
    host, _, rest = process.partition(":")
    identity, _, started = rest.partition(":")
    if host != platform.node() or not identity:
        return None
    try:
        return f"{psutil.Process(int(identity)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False
