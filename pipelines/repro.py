"""``dvc repro`` as a process of its own, whose lines begin with what they are about."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread

SECONDS_TO_END = 20


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
        )
        self._printer = Thread(target=self._print, name=f"lines of {name}", daemon=True)
        self._printer.start()

    def _print(self) -> None:
        for line in self.process.stdout or ():
            print(f"[{self.name}] {line}", end="", flush=True)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def succeeded(self) -> bool:
        """Waits for its end, and for its last line."""
        status = self.process.wait()
        self._printer.join()
        return status == 0

    def stop(self) -> None:
        """Its stages end themselves when DVC is gone."""
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
