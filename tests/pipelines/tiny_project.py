"""A project small enough to run through every stage in seconds, and ways to run its stages."""

import copy
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pipelines.project import Project
from pipelines.stage import run_stage

ROOT = Path(__file__).parents[2]
PLAIN = "pspnet-resnet18-tiny"
SEARCHED = "fcn-resnet18-tiny"
STEPS = 12
"""Enough saves for a kill to fall between two of them."""

TABLE: dict[str, Any] = {
    "datasets": {
        "tiny": {
            "form": "shapes",
            "options": {"train": 8, "val": 4, "height": 48, "width": 64},
            "images_per_shard": 4,
            "recipe": {
                "crop": [32, 32],
                "batch_size": 4,
                "steps": STEPS,
                "evaluate_every": 6,
                "save_every": 2,
                "benchmark_size": [48, 64],
                "splits": ["val", "train"],
            },
        }
    },
    "defaults": {"output_stride": 8, "backbone_options": {"channels": [8, 16, 32, 64]}},
    "rows": {
        PLAIN: {
            "method": "pspnet",
            "backbone": "resnet18",
            "dataset": "tiny",
            "workers": 2,
            "loader_workers": 2,
            "options": {"width": 8, "auxiliary_width": 8},
        },
        SEARCHED: {
            "method": "fcn",
            "backbone": "resnet18",
            "dataset": "tiny",
            "options": {"num_convs": 1, "auxiliary_width": 8},
            "search": {
                "space": {
                    "learning_rate": {"loguniform": [0.001, 0.1]},
                    "options.width": {"choice": [6, 10]},
                },
                "trials": 3,
                "concurrent": 1,
                "steps": 2,
                "evaluate_every": 1,
                "grace": 1,
            },
        },
    },
    "refinements": {},
}


def table(**changes: Any) -> dict[str, Any]:
    """``TABLE`` with keys such as ``rows__name__steps`` replaced; None removes one."""
    changed = copy.deepcopy(TABLE)
    for path, value in changes.items():
        *folders, last = path.split("__")
        place = changed
        for folder in folders:
            place = place[folder]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return changed


def write_table(root: Path, values: dict[str, Any]) -> Project:
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return Project(root, root / "params.yaml")


def main_of(verb: str) -> Callable[[str, Project], None]:
    """A stage's ``main``; what the engines say about their own code is no error of ours."""
    stage = import_module(f"pipelines.{verb}").main

    def main(key: str, project: Project) -> None:
        with warnings.catch_warnings():
            for engine in ("ray", "mlflow", "optuna"):
                warnings.filterwarnings("ignore", module=rf"{engine}\.")
            stage(key, project)

    return main


class Outcome(NamedTuple):
    """How a stage ended, and what it said."""

    status: int | None
    out: str
    err: str


def ended(verb: str, key: str, root: Path, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Runs a stage in this process just as the command line does, up to its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", [f"pipelines/{verb}.py", *([key] if key else [])])
        status, environment = 0, dict(os.environ)
        handler = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            run_stage(main_of(verb), keyed=bool(key))
        except SystemExit as end:
            status = end.code
        finally:
            signal.signal(signal.SIGTERM, handler)
            os.environ.clear()
            os.environ.update(environment)
    assert status is None or isinstance(status, int)
    return Outcome(status, *capsys.readouterr())


def environment(**extra: str) -> dict[str, str]:
    """That of a shell in which the checkout's environment is active."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "DVC_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    quiet = {"DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1", "SHELL": "/bin/sh"}
    return kept | quiet | {"PATH": path} | extra


@contextmanager
def started(root: Path, *command: str, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """A process in ``root``; whatever happens to the test, none of its group is left behind."""
    process = subprocess.Popen(
        command,
        cwd=root,
        # a project with code of its own runs that
        env=environment(PYTHONPATH=str(root if (root / "pipelines").exists() else ROOT), **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, signal_number)
            except ProcessLookupError:
                break
            time.sleep(0.5)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()


def stage_command(verb: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"pipelines.{verb}", *arguments)


def dvc_command(*arguments: str) -> tuple[str, ...]:
    return (str(Path(sys.executable).with_name("dvc")), *arguments)


def run(root: Path, *command: str, **extra: str) -> Outcome:
    with started(root, *command, **extra) as process:
        out, err = process.communicate(timeout=240)
        return Outcome(process.returncode, out, err)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen in time: {what}"
        time.sleep(0.01)
