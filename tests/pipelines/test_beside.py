"""Work beside the body of a ``with``: both at once, and an end that waits for both."""

import subprocess
import sys
from threading import Event, current_thread

import pytest

from pipelines.beside import begun, beside

SECONDS = 30
"""Far longer than either waits for the other."""


def test_both_go_on_at_the_same_time():
    here, there = Event(), Event()

    def work() -> bool:
        there.set()
        return here.wait(SECONDS)

    with beside(work, "aside") as given:
        assert there.wait(SECONDS)
        here.set()
    assert given.result()


def test_the_end_waits_for_the_work():
    may_end, done = Event(), list[str]()

    def work() -> None:
        may_end.wait(SECONDS)
        done.append(current_thread().name)

    with beside(work, "aside"):
        may_end.set()
    assert done == ["aside"]


def test_what_the_work_raises_is_raised_at_the_end():
    reached = list[int]()
    with pytest.raises(ValueError, match="wrong"), beside(lambda: int("wrong"), "aside"):
        reached.append(1)
    assert reached == [1]


def test_what_the_body_raises_is_raised_when_the_work_is_done():
    done = list[int]()
    with pytest.raises(KeyboardInterrupt), beside(lambda: done.append(1), "aside"):
        raise KeyboardInterrupt
    assert done == [1]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, KeyError])
def test_of_two_errors_the_bodys_is_raised(end: type[BaseException]):
    """An interrupt stays one, though the store that is opened meanwhile is away."""
    with pytest.raises(end), beside(lambda: int("wrong"), "aside"):
        raise end


def test_a_process_may_end_before_its_work():
    script = (
        "import threading; from pipelines.beside import begun; begun(threading.Event().wait, '')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=SECONDS)


def test_what_was_begun_gives_its_result():
    assert begun(lambda: 6 * 7, "aside").result(SECONDS) == 42


@pytest.mark.long
def test_a_stage_loads_timm_only_while_ray_starts():
    """It takes a second, which Ray spends waiting; above, it would be a second of the stage."""
    script = "import sys, pipelines.train; print({'timm', 'torchvision'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert out.stdout == "set()\n"
