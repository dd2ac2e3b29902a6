"""A connection to one MLflow store: opened under a lock, with failures said in one line."""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from segcore.errors import InputError

# MLflow reads these while it is imported; its own defaults wait minutes for a server that is gone.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as database
from sqlalchemy.exc import SQLAlchemyError

database.MAX_RETRY_COUNT = 2  # its ten tries at a database that cannot be read take 100 s
LOST = (MlflowException, SQLAlchemyError, OSError)
MINUTES_AWAY, SECONDS_BETWEEN_TRIES = 10.0, 5.0
"""How long the end of a stage waits for a store that is away."""


class Connection:
    """One MLflow store, and the project root that it serves."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri = uri
        self.root = root.resolve()

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)  # this already creates tables: first used locked

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Turns failures of the store into an InputError that names it and the remedy."""
        try:
            yield
        except LOST as error:
            raise self._blamed(f"tracking failed ({_first_line(error)})") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process of this root at a time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "mlflow.db.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tried(self, call: Callable[..., Any], *arguments: Any, quiet: bool = False) -> bool:
        """Whether the store took the call; says so in one line where it did not."""
        try:
            call(*arguments)
        except LOST as error:
            if not quiet:
                print(f"{self.uri} missed {call.__name__}: {_first_line(error)}", file=sys.stderr)
            return False
        return True

    def await_back(self) -> None:
        """Returns once the store answers: what follows must arrive. Raises InputError where it is
        away for long."""
        end, quiet = time.monotonic() + 60 * MINUTES_AWAY, False
        while not self.tried(self.answer, quiet=quiet):
            if not quiet:
                print(f"waiting for it, for {MINUTES_AWAY:g} minutes at most", file=sys.stderr)
            quiet = True
            self.insist(time.monotonic() < end)
            time.sleep(SECONDS_BETWEEN_TRIES)

    def answer(self) -> None:
        """Fails where the store is away."""
        self.client.search_experiments(max_results=1)

    def insist(self, taken: bool) -> None:
        """Raises InputError where the store did not take what a stage may not end without."""
        if not taken:
            raise self._blamed(
                "tracking is away, and a stage may not end without it",
                "start the stage again: its work is kept, and it sends the rest",
            )

    def _blamed(self, why: str, *remedies: str) -> InputError:
        what, remedy = self.uri, "make it readable and writable, or move a damaged one aside"
        if os.environ.get("MLFLOW_TRACKING_URI"):
            what, remedy = f"MLFLOW_TRACKING_URI={self.uri}", "unset it or start the server"
        return InputError(f"{what}: {why}; {' and '.join([remedy, *remedies])}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
