"""A stage ends when the DVC that started it does; by itself it would go on, and nobody would know.

The kernel's signal at a parent's death is not enough: a shell may stand between the two, and it
lives on. A parent that died while this process was still importing would not be noticed either.
"""

import os
import signal
import sys
import time
from threading import Thread

import psutil

SHELLS = {"sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "zsh"}
SECONDS_BETWEEN_LOOKS = 1.0


def end_with_dvc() -> None:
    """Sends this process SIGTERM when DVC is gone; does nothing where DVC did not start it."""
    if "DVC_STAGE" not in os.environ or sys.platform == "win32":
        return
    dvc = psutil.Process().parent()
    while dvc and dvc.name() in SHELLS:
        dvc = dvc.parent()
    # Whoever adopts an orphan is no member of the process group that DVC and its stages share.
    if dvc is None or os.getpgid(dvc.pid) != os.getpgrp():
        sys.exit(143)
    Thread(target=_watch, args=(dvc,), name="end with DVC", daemon=True).start()


def _watch(dvc: psutil.Process) -> None:
    while dvc.is_running():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
