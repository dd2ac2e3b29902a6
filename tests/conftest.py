"""What holds for every test: one thread, no network, markers that skip with their reason."""

import importlib.util
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

# Before torch is loaded: two tests side by side, or Ray's workers, then share the cores fairly,
# and sums do not depend on how many cores there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("MPLBACKEND", "agg")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests that were started in a shell's background would start stages deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _own_address() -> str | None:
    """The address that other machines would see; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation: nobody's address
        except OSError:
            return None
        return probe.getsockname()[0]


LOCAL = {None, "", "localhost", socket.gethostname(), socket.getfqdn(), _own_address()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="run the tests marked network, too")
    parser.addoption("--write-golden", action="store_true", help="write tests/golden anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("network") and not config.getoption("--network"):
            item.add_marker(pytest.mark.skip(reason="needs the network; give --network"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names do not resolve and public addresses cannot be reached, as on a machine offline."""
    if request.node.get_closest_marker("network"):
        yield
        return
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def resolve_local(host: Any, *arguments: Any, **options: Any) -> Any:
        if _is_public(host):
            raise socket.gaierror(socket.EAI_NONAME, f"the tests use no network: {host!r}")
        return resolve(host, *arguments, **options)

    def connect_local(self: socket.socket, address: Any) -> None:
        # A datagram socket is "connected" without sending: Ray finds its own address that way.
        if isinstance(address, tuple) and self.type & socket.SOCK_STREAM and _is_public(address[0]):
            raise ConnectionRefusedError(f"the tests use no network: {address!r}")
        return connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_local)
    monkeypatch.setattr(socket.socket, "connect", connect_local)
    yield


def _is_public(host: Any) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in LOCAL:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared dataset: 12 images of 48x64 (8 train, 4 val), 4 classes, some pixels void."""
    import numpy as np
    from PIL import Image

    from segcore.datasets import build_dataset
    from segcore.preparation import prepare
    from segcore.tables import DatasetTable

    place = tmp_path_factory.mktemp("tiny")
    colours = np.array([[60, 60, 60], [200, 60, 40], [40, 180, 60], [70, 90, 220]])
    for folder in ("images", "labels"):
        (place / folder).mkdir()
    rows, columns = np.indices((48, 64))
    for number in range(12):
        generator = np.random.default_rng([number, 2])
        labels = np.zeros((48, 64), np.uint8)
        for value in (1, 2, 3):
            top, left, radius = generator.integers([0, 0, 7], [48, 64, 17])
            labels[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = value
        image = colours[labels] + generator.normal(0, 20, (48, 64, 3))
        labels[:, : 3 * (number % 4)] = 255  # images differ in how much of them is labelled
        Image.fromarray(labels).save(place / f"labels/{number:02d}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            place / f"images/{number:02d}.png"
        )
    (place / "train.txt").write_text("\n".join(f"{number:02d}" for number in range(8)))
    (place / "val.txt").write_text("\n".join(f"{number:02d}" for number in range(8, 12)))
    dataset = build_dataset(
        "folder",
        {
            "root": str(place),
            "images": "images/{stem}.png",
            "labels": "labels/{stem}.png",
            "classes": ["ground", "red", "green", "blue"],
            "split": {"train": "train.txt", "val": "val.txt"},
        },
    )
    shards, work = place / "shards", place / "work"
    table = DatasetTable(images_per_shard=4)
    assert sum(prepare("tiny", dataset, place, shards, work, table)) == 24
    return str(shards)
