"""Joining or starting a Ray cluster."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipelines.cluster.requirements import ROWS_AT_ONCE, capacity
from segcore.errors import InputError


@contextmanager
def cluster() -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, else starts one on this machine for the while.

    Raises InputError at once where it does not answer."""
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
    with cluster():
        address = ray.get_runtime_context().gcs_address
        yield {**os.environ, "RAY_ADDRESS": address, ROWS_AT_ONCE: str(rows)}, capacity()


def _connect(address: str | None) -> None:
    # Ray passes on its own variables; processes elsewhere inherit no other one.
    patience = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
    settings = {"env_vars": {patience: os.environ[patience]}} if address else None
    ending = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _knock(address)
        # without an address Ray would join whatever cluster was started on this machine
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=settings,
            include_dashboard=None if address else False,  # nobody looks, and it takes seconds
        )
    except OSError as error:
        remedy = (
            "start it, give the token that it asks for (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN), "
            "or unset RAY_ADDRESS to use this machine alone"
        )
        raise InputError(f"RAY_ADDRESS={address}: no cluster there ({error}); {remedy}") from error
    finally:
        signal.signal(signal.SIGTERM, ending)  # Ray puts its own there, with another exit status


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would go on asking for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdigit():  # else a word, such as "auto"
        socket.create_connection((host, int(port)), timeout=5).close()
