"""Joining or starting a Ray cluster, and refusing at once what it can never give."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

# Ray reads these while it is imported: its own values cost two seconds per report, and wait
# for ever for workers that cannot start.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")

import ray

from segcore.errors import InputError
from segcore.row import Run
from segcore.runs import device_of


@contextmanager
def cluster(run: Run, trials: int = 1) -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, else starts one on this machine for the while.

    Raises InputError at once where it does not answer or the row asks for more than it has."""
    with connected():
        _check_resources(run, trials)
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


def _connect(address: str | None) -> None:
    try:
        if address:
            _knock(address)
        ending = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
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


def _check_resources(run: Run, trials: int) -> None:
    has = ray.cluster_resources()
    needs = {"CPU": run.workers * run.threads * trials}
    if device_of(run).type == "cuda":
        needs["GPU"] = run.workers * trials
    for kind, count in needs.items():
        if count > has.get(kind, 0):
            what = f"{run.workers} worker(s) of {run.threads} thread(s)"
            what += f" in {trials} trials side by side" if trials > 1 else ""
            raise InputError(
                f"{what} need {count} {kind}, the cluster has {has.get(kind, 0):.0f}; "
                "lower workers, threads or search.concurrent, or set RAY_ADDRESS to a larger one"
            )


def resources(run: Run) -> dict[str, float]:
    gpu = {"GPU": 1.0} if device_of(run).type == "cuda" else {}
    return {"CPU": float(run.threads), **gpu}
