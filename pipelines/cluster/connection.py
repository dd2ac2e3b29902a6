"""Joining or starting a Ray cluster."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.cluster.watchdog import STALL_SECONDS
from pipelines.processes import is_this_machine

# Ray reads these while it is imported, here and in the processes that it starts. Its own values
# cost two seconds per report, and wait a minute for the workers of a node that has died and half
# a minute for one that cannot answer any more.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", f"{STALL_SECONDS:.0f}")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "3")
# Named for the systems where 0 is the default: a cluster of this machine alone then listens on
# loopback only, and who joins it must say the same. Otherwise Ray takes an address of loopback
# for this machine's public one.
os.environ.setdefault(
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "0" if is_this_machine(os.environ.get("RAY_ADDRESS")) else "1",
)

import ray

from pipelines.cluster.requirements import ROWS_AT_ONCE, capacity, check_requirements
from segcore.errors import InputError
from segcore.row import Run


@contextmanager
def cluster(run: Run, trials: int = 1) -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, else starts one on this machine for the while.

    Raises InputError at once where it does not answer or the row asks for more than it has."""
    with connected():
        check_requirements(run, trials)
        yield


@contextmanager
def connected() -> Iterator[None]:
    """The same for whoever takes what the cluster has."""
    started = not ray.is_initialized()
    if started:
        _connect(os.environ.get("RAY_ADDRESS"))
    for name in ("ray.train", "ray.tune", "ray.data", "optuna"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def lent(rows: int) -> Iterator[tuple[dict[str, str], dict[str, float]]]:
    """One cluster for so many rows at once: the environment in which their stages join it, and
    what it has."""
    with connected():
        address = ray.get_runtime_context().gcs_address
        yield {**os.environ, "RAY_ADDRESS": address, ROWS_AT_ONCE: str(rows)}, capacity()


def _connect(address: str | None) -> None:
    # Ray passes on its own variables; processes elsewhere inherit no other one.
    patience = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
    settings = {"env_vars": {patience: os.environ[patience]}} if address else None
    try:
        if address:
            _knock(address)
        ending = signal.getsignal(signal.SIGTERM)
        # without an address Ray would join whatever cluster was started on this machine
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=settings,
        )
        signal.signal(signal.SIGTERM, ending)  # Ray puts its own there, with another exit status
    except OSError as error:
        remedy = (
            "start it, give the token that it asks for (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN), "
            "or unset RAY_ADDRESS to use this machine alone"
        )
        raise InputError(f"RAY_ADDRESS={address}: no cluster there ({error}); {remedy}") from error


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would go on asking for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdigit():  # else a word, such as "auto"
        socket.create_connection((host, int(port)), timeout=5).close()
