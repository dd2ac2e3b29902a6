"""Signals end a stage by an exception, so that "finally" and "with" close what is open.

Python drops an exception that is raised inside a finaliser or the callback of a weak reference:
a signal that arrives there would be lost, and the stage would go on. It is sent again.
"""

import os
import signal
import sys
from threading import Timer
from types import FrameType
from typing import NoReturn

AGAIN_SECONDS = 0.1
SIGNALS = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}


def end_on_signals() -> list[int]:
    """Makes SIGTERM raise SystemExit, as SIGINT raises KeyboardInterrupt by itself, and neither
    one lost. Every SIGTERM is also added to the list that is returned."""
    told = list[int]()

    def terminated(number: int, _frame: FrameType | None) -> NoReturn:
        told.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    sys.unraisablehook = _send_again
    return told


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    number = SIGNALS.get(dropped.exc_type)
    if number is None:
        sys.__unraisablehook__(dropped)
    else:  # by another thread: sent from here it would arrive here, to be dropped once more
        Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()
