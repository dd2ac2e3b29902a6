"""A Ray cluster of several nodes on this machine, as a process that takes orders.

``python -m tests.pipelines.nodes 3`` starts a head without CPUs and three nodes of one CPU, then
prints its address and the process ids of the nodes' raylets. ``end 1`` kills a node, ``add``
starts another one; each answers with a line.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.pipelines.tiny_project import ROOT, environment


class Nodes:
    """The same, seen from a test."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.address, *raylets = self._line().split()
        self.raylets = [int(pid) for pid in raylets]

    def end(self, number: int) -> None:
        self._order(f"end {number}")

    def add(self) -> None:
        self.raylets.append(int(self._order("add")))

    def _order(self, words: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the cluster is gone"
        return line


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """Their processes end with the block, whatever happens in it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.nodes", str(count)],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore", RAY_USAGE_STATS_ENABLED="0"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Nodes(process)
        finally:
            assert process.stdin
            process.stdin.close()  # it then ends what it started
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def main(count: int) -> None:
    from ray.cluster_utils import Cluster

    import pipelines.cluster  # noqa: F401  (sets what Ray reads when it is imported)

    # With a dashboard, since Ray Train asks it what a dead controller left behind; on any port.
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    members = [cluster.add_node(num_cpus=1) for _ in range(count)]
    print(cluster.address, *map(raylet_of, members), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["end", number]:
                cluster.remove_node(members[int(number)], allow_graceful=False)
                print("ended", flush=True)
            case ["add"]:
                members.append(cluster.add_node(num_cpus=1))
                print(raylet_of(members[-1]), flush=True)
    cluster.shutdown()


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


if __name__ == "__main__":
    main(int(sys.argv[1]))
