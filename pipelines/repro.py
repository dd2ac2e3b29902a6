"""``dvc repro`` as a process of its own, whose lines begin with what they are about."""

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Thread

import psutil

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 60
"""For a stage that was told to: its tracking server may be away."""


class Repro:
    """Runs stages in the folder ``root``; what they say is printed as it comes."""

    def __init__(
        self, name: str, root: Path, targets: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.name = name
        beside = str(Path(sys.executable).parent)  # the stages' ``python`` must be this one
        self.process = subprocess.Popen(
            # to fail where another process just reads its stages would lose a whole training
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *targets],
            cwd=root,
            env={**environment, "PATH": f"{beside}:{environment.get('PATH', '')}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # Ctrl-C is for whoever runs rows, who then ends them in order
        )
        self._printer = Thread(target=self._print, name=f"lines of {name}", daemon=True)
        self._printer.start()

    def _print(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                print(f"[{self.name}] {line}", end="", flush=True)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def succeeded(self) -> bool:
        """Waits for its end, and for its last line."""
        status = self.process.wait()
        self._printer.join()
        return status == 0

    def stop(self) -> list[psutil.Process]:
        """Ends DVC; returns all that it had started: its stages end themselves when it is gone."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        self.process.terminate()
        self.process.wait()  # DVC takes no time; until then its stages take it for alive
        return below


def stop_all(repros: Iterable[Repro]) -> None:
    """Ends them at once, and waits for their stages: what these use is still there meanwhile."""
    below = [process for repro in repros for process in repro.stop()]
    end = time.monotonic() + SECONDS_TO_END
    while (alive := [each for each in below if not is_over(each)]) and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    for process in alive:
        process.kill()


def is_over(process: psutil.Process) -> bool:
    """Also where nobody takes notice of its end: in a container whose first process does not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
