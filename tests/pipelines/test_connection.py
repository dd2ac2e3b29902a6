"""Which Ray cluster a stage works on, and who may see it."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.cluster import connection
from pipelines.processes import is_this_machine


@pytest.mark.parametrize(
    ("address", "alone"),
    [
        (None, True),
        ("", True),
        ("local", True),
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("ray://localhost:10001", True),
        ("[::1]:6379", True),
        ("10.0.0.7:6379", False),
        ("head:6379", False),
        ("ray://head:10001", False),
        ("auto", False),
    ],
)
def test_an_address_on_loopback_is_this_machine(address: str | None, alone: bool):
    assert is_this_machine(address) is alone


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, Any]]]:
    """The addresses, with runtime environments, that Ray is asked for; none is started."""
    asked = list[tuple[Any, Any]]()

    def init(address: str | None = None, *, runtime_env: Any, **_: Any) -> None:
        asked.append((address, runtime_env))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does

    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setattr(connection.ray, "shutdown", lambda: None)
    ending = signal.getsignal(signal.SIGTERM)
    yield asked
    assert signal.getsignal(signal.SIGTERM) == ending


@pytest.mark.parametrize("address", [None, ""])
def test_without_an_address_no_cluster_is_joined(
    begun: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch, address: str | None
):
    """Not even one that somebody has started on this machine with ``ray start``."""
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with connection.cluster():
        pass
    assert begun == [("local", None)]


def test_an_address_is_joined_with_what_its_workers_must_know(
    begun: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with connection.cluster():
        pass
    variable = "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"
    assert begun == [("auto", {"env_vars": {variable: "3"}})]
