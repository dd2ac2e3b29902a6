"""A process that hangs, in Python or with Python held, leaves its stacks and ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.tiny_project import ROOT

pytestmark = pytest.mark.long

PROGRAM = """
import importlib.util, re, sys, threading, time
from pathlib import Path

place = "pipelines/cluster/watchdog.py"  # alone: the package around it imports Ray
spec = importlib.util.spec_from_file_location("watchdog", place)
watchdog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(watchdog)
watchdog.GRACE_SECONDS = 0.3

def waits_for_ever():
    threading.Event().wait()

def holds_the_interpreter():
    re.match("(a+)+$", "a" * 60 + "b")

with watchdog.watched(watchdog.stacks_of(Path(sys.argv[1]), 3), 0.5) as alive:
    for _ in range(4):
        time.sleep(0.25)
        alive()
    print("worked longer than the limit", flush=True)
    if sys.argv[2] != "ends":
        globals()[sys.argv[2]]()
time.sleep(1)
print("went on", watchdog.written_stacks(Path(sys.argv[1])))
"""


def end_of(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), how]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("how", ["waits_for_ever", "holds_the_interpreter"])
def test_what_hangs_says_where_and_ends(tmp_path: Path, how: str):
    outcome = end_of(tmp_path, how)
    assert (outcome.returncode, outcome.stderr) == (-signal.SIGALRM, "")
    assert outcome.stdout == "worked longer than the limit\n"
    stacks = (tmp_path / "stacks/rank-0003.txt").read_text()
    assert f"in {how}" in stacks


def test_what_ends_leaves_nothing_behind(tmp_path: Path):
    outcome = end_of(tmp_path, "ends")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "worked longer than the limit\nwent on []\n"
    assert list((tmp_path / "stacks").iterdir()) == []
