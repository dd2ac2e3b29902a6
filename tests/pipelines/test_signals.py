"""A signal ends a process wherever it arrives."""

import signal
import sys
from pathlib import Path

import pytest

from tests.pipelines.tiny_project import run, started

PROCESS = """
import sys, time, weakref
from pipelines.stage import run_safely

class Thing:
    pass

def stay(_=None):
    print("there", flush=True)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass

class Finalised:
    __del__ = stay

def callback():
    thing = Thing()
    reference = weakref.ref(thing, stay)
    del thing

def go_on():
    {moment}()
    try:
        time.sleep(60)
    finally:
        print("closed")

run_safely(go_on)
"""


@pytest.mark.parametrize("moment", ["stay", "Finalised", "callback"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_not_lost_where_python_drops_its_exception(
    moment: str, number: int, status: int, tmp_path: Path
):
    with started(tmp_path, sys.executable, "-c", PROCESS.format(moment=moment)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert out == ("" if moment == "stay" else "closed\n")
    assert err == ("interrupted\n" if number == signal.SIGINT else "")


def test_what_else_a_finaliser_raises_is_said(tmp_path: Path):
    process = PROCESS.replace("__del__ = stay", "__del__ = lambda self: 1 / 0")
    process = process.replace("time.sleep(60)", "time.sleep(0)").format(moment="Finalised")
    with started(tmp_path, sys.executable, "-c", process) as child:
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, "closed\n")
    assert "ZeroDivisionError" in err


STAGE = """
from pipelines.stage import run_stage
from segcore.errors import InputError

class Module:
    def __del__(self):
        print("taken apart")

module = Module()

def main(key, project):
    raise {end}

run_stage(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("KeyboardInterrupt", 130, "interrupted\n"),
        ("InputError('no such key')", 2, "error: no such key\n"),
    ],
)
def test_a_stage_leaves_at_once(end: str, status: int, said: str, tmp_path: Path):
    outcome = run(tmp_path, sys.executable, "-c", STAGE.format(end=end), "a")
    assert (outcome.status, outcome.out, outcome.err) == (status, "", said)
