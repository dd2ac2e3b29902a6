"""What a row asks of a cluster: GPUs where the cluster has some, and nothing that cannot be."""

import ipaddress
import os
from typing import Any

import psutil
import pytest

from segcore.errors import InputError
from segcore.row import Run

pytestmark = pytest.mark.cluster


def row(**values: Any) -> Run:
    plain = {"method": "fcn", "backbone": "resnet18", "dataset": "tiny", "steps": 1}
    plain |= {"batch_size": 8, "crop": (32, 32), "evaluate_every": 1, "save_every": 1}
    return Run(**(plain | values))


def search(**values: Any) -> dict[str, Any]:
    space = {"learning_rate": {"uniform": (0.1, 0.2)}}
    return {"space": space, "steps": 1, "evaluate_every": 1, "grace": 1, **values}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the cluster have nodes with so many CPUs and GPUs each."""
    from pipelines.cluster import requirements

    def has(*each: tuple[float, float]) -> None:
        held = [{"CPU": cpus, "GPU": gpus} for cpus, gpus in each]
        total = {kind: sum(node[kind] for node in held) for kind in ("CPU", "GPU")}
        listed = [{"Alive": True, "Resources": node} for node in held]
        monkeypatch.setattr(requirements.ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(requirements.ray, "nodes", lambda: listed)

    return has


@pytest.mark.parametrize(
    ("device", "gpus", "asked"),
    [("auto", 0, {}), ("auto", 2, {"GPU": 1.0}), ("cpu", 2, {}), ("cuda", 2, {"GPU": 1.0})],
)
def test_the_cluster_decides_whether_workers_are_on_gpus(
    ray_cluster: str, nodes: Any, device: str, gpus: float, asked: dict[str, float]
):
    from pipelines.cluster.requirements import check_requirements, resources

    nodes((8, 0), (4, gpus))  # the head has none
    run = row(device=device, threads=2, workers=2)
    assert resources(run) == {"CPU": 2.0, **asked}
    check_requirements(run)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workers": 5, "threads": 2}, "5 worker.* need 10 CPU, the cluster has 8; lower workers"),
        ({"workers": 3, "device": "cuda"}, "need 3 GPU, the cluster has 2"),
        ({"workers": 1, "threads": 5}, "need 5 CPU, 1 GPU each on one node, .* has room for 0"),
        ({"workers": 3, "threads": 2, "device": "cuda"}, "need 3 GPU, the cluster has 2"),
        ({"workers": (5, 8), "threads": 2}, "5 worker"),
    ],
)
def test_what_can_never_be_is_refused(
    ray_cluster: str, nodes: Any, values: dict[str, Any], said: str
):
    from pipelines.cluster.requirements import check_requirements

    nodes((4, 1), (4, 1))
    with pytest.raises(InputError, match=said):
        check_requirements(row(**values))
    check_requirements(row(workers=(2, 8), threads=4, device="cuda"))  # the least of them fit


def test_without_a_gpu_none_can_be_asked_for(ray_cluster: str, nodes: Any):
    from pipelines.cluster.requirements import check_requirements

    nodes((4, 0))
    with pytest.raises(InputError, match="the cluster has no GPU; set device to auto or cpu"):
        check_requirements(row(device="cuda"))


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({"workers": 3}, 3),
        ({"workers": (1, 6)}, 6),
        ({"workers": (1, 8), "threads": 4}, 12),  # all there is
        ({"workers": 2, "search": search(concurrent=4)}, 4),
        ({"workers": 5, "search": search(concurrent=2, workers=2)}, 5),
        ({"workers": 2, "search": search()}, 4),  # its share of twelve among three
        ({"workers": 6, "search": search()}, 6),
    ],
)
def test_a_row_counts_with_the_most_that_it_takes(
    ray_cluster: str, nodes: Any, values: dict[str, Any], needed: float
):
    from pipelines.cluster.requirements import needs

    nodes((12, 0))
    assert needs(row(**values), 3) == {"CPU": needed}


def test_a_search_beside_other_rows_sees_its_share(
    ray_cluster: str, nodes: Any, monkeypatch: pytest.MonkeyPatch
):
    from pipelines.cluster.requirements import share

    nodes((12, 4))
    assert share() == {"CPU": 12, "GPU": 4}
    monkeypatch.setenv("SEGCORE_ROWS_AT_ONCE", "4")
    assert share() == {"CPU": 3, "GPU": 1}


def test_a_cluster_of_this_machine_alone_listens_on_loopback_and_wants_a_token(ray_cluster: str):
    this = psutil.Process()
    own = {this.pid, *(each.pid for each in this.children(recursive=True))}
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.pid in own
    }
    assert listening
    assert [each for each in listening if not ipaddress.ip_address(each).is_loopback] == []
    assert os.environ["RAY_AUTH_MODE"] == "token"
