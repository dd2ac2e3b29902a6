"""What every stage shares: arguments, one run at a time, an end that can be told apart.

Exit status 0: done; 2: something a person gave cannot be used, said in one message; 130 and
143: interrupted, terminated. Anything else is a mistake of ours and shows its traceback.
"""

import argparse
import atexit
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pipelines.guard import guard
from pipelines.locking import locked
from pipelines.orphan import end_with_dvc
from pipelines.project import Project
from pipelines.signals import end_on_signals
from segcore.errors import InputError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "PYTHONWARNINGS": "ignore",
    "MPLBACKEND": "agg",
}


def run_stage(main: Callable[[str, Project], None], *, keyed: bool = True) -> None:
    """Runs ``main(key, project)`` as this process, once per key at a time."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    if keyed:
        parser.add_argument("key", help="a dataset or a row of the table")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    arguments = parser.parse_args()
    verb = Path(sys.argv[0]).stem
    project = Project(Path.cwd(), arguments.params)
    key = arguments.key if keyed else ""
    status = _status(lambda: _alone(main, verb, key, project))
    if main.__module__ == "__main__":
        _leave(status)
    if status:
        sys.exit(status)


def _leave(status: int) -> NoReturn:
    """Ends the process without taking its modules apart first, for which torch's and MLflow's
    need two seconds, and in which Ray's threads, where a training was interrupted, may crash."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_safely(action: Callable[[], None]) -> None:
    """Ends the process as the module says; a stage of DVC also ends when DVC does."""
    if status := _status(action):
        sys.exit(status)


def _status(action: Callable[[], None]) -> int:
    """That of an action that is done, refused or interrupted."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    told = end_on_signals()
    end_with_dvc()
    try:
        action()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as end:
        # Ray makes another end of SIGTERM, where that meets it waiting or starting
        if told or end.args == (signal.SIGTERM,):
            return 143
        if isinstance(end, SystemExit):
            raise
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _alone(main: Callable[[str, Project], None], verb: str, key: str, project: Project) -> None:
    guard(project.root)
    with locked(project.work / "locks" / f"{verb}-{key or 'all'}.lock", f"{verb} {key}".strip()):
        main(key, project)
