"""Training across nodes: one dies, a cable is cut, a disk is not shared. Minutes long."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.project import Project
from segcore.journal import read_lines
from tests.pipelines.hosts import PORT, Host, two_hosts, unavailable
from tests.pipelines.nodes import nodes
from tests.pipelines.test_resume import has_checkpoint, is_the_same, journal_of, workers
from tests.pipelines.tiny_project import (
    PLAIN,
    main_of,
    run,
    stage_command,
    started,
    table,
    wait_until,
    write_table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def ready(finished: Project, copy_of: Callable[..., Project]) -> Project:
    return copy_of(finished, "data/shards", f"runs/{PLAIN}/search.json")


@pytest.fixture
def long(prepared: Project, copy_of: Callable[..., Project]) -> Project:
    """The same row with one worker or two, and more steps than any test waits for."""
    recipe = "datasets__tiny__recipe"
    many = {f"{recipe}__steps": 50_000, f"{recipe}__evaluate_every": 50_000}
    row = {f"rows__{PLAIN}__workers": [1, 2], f"rows__{PLAIN}__loader_workers": 0}
    changed = table(**many, **row, **{f"{recipe}__save_every": 10})
    project = write_table(copy_of(prepared, "data/shards").root, changed)
    main_of("tune")(PLAIN, project)
    return project


def events(project: Project) -> list[dict[str, Any]]:
    journal = journal_of(project)
    return read_lines(journal) if journal else []


def last_step(project: Project) -> int:
    return max((line["step"] for line in events(project)), default=0)


def saved_step(project: Project) -> int:
    """Of the last checkpoint but one, which is whole."""
    steps = sorted(project.work.glob(f"{PLAIN}-*/step-*"))
    return int(steps[-2].name.removeprefix("step-")) if len(steps) > 1 else 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says how long something took; pytest shows it with -rP."""
    begun = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begun:.1f} s")


def workers_below(pid: int) -> list[int]:
    return [each.pid for each in workers(pid)]


def test_a_node_that_dies_is_replaced_by_one_that_was_idle(ready: Project, finished: Project):
    with nodes(3) as cluster:
        command = stage_command("train", PLAIN)
        with started(ready.root, *command, RAY_ADDRESS=cluster.address) as process:
            wait_until(lambda: has_checkpoint(ready) or process.poll() is not None, "a checkpoint")
            busy = [n for n, pid in enumerate(cluster.raylets) if workers_below(pid)]
            assert len(busy) == 2
            cluster.end(busy[0])
            struck = last_step(ready)
            with timed("the first step after a node's end"):
                wait_until(
                    lambda: last_step(ready) > struck or process.poll() is not None, "a step"
                )
            out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
        assert "starting again" in out
    is_the_same(ready, finished)


def test_a_stage_killed_beside_its_cluster_goes_on_there(ready: Project, finished: Project):
    """What it left on the cluster is in nobody's way."""
    command = stage_command("train", PLAIN)
    with nodes(2) as cluster:
        with started(ready.root, *command, RAY_ADDRESS=cluster.address) as process:
            wait_until(lambda: has_checkpoint(ready) or process.poll() is not None, "a checkpoint")
            process.kill()
            process.wait()
        outcome = run(ready.root, *command, RAY_ADDRESS=cluster.address)
    assert outcome.status == 0, outcome
    is_the_same(ready, finished)


def test_an_elastic_row_goes_on_with_the_nodes_that_are_left(long: Project):
    with nodes(2) as cluster:
        command = stage_command("train", PLAIN)
        with started(long.root, *command, RAY_ADDRESS=cluster.address) as process:
            wait_until(lambda: saved_step(long) > 10 or process.poll() is not None, "checkpoints")
            assert [len(workers_below(pid)) for pid in cluster.raylets] == [1, 1]
            kept, before = saved_step(long), events(long)
            cluster.end(1)
            wait_until(lambda: last_step(long) > before[-1]["step"] + 50, "steps of one worker")
            assert len(workers_below(cluster.raylets[0])) == 1
            after = events(long)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)
        assert process.returncode == 143, (out, err)
    assert after[:kept] == before[:kept]  # times included: no step that was saved was repeated
    assert [line["step"] for line in after] == list(range(1, len(after) + 1))


@pytest.mark.skipif(bool(unavailable()), reason=f"two hosts: {unavailable()}")
def test_two_hosts_whose_cable_is_cut_and_mended(long: Project):
    with two_hosts() as (first, second):
        first.start_ray()
        second.start_ray(head=first.address)
        refused_while_the_disk_is_not_shared(long, first, second)
        process = training_on(first, long)
        try:
            wait_until(lambda: saved_step(long) > 10 or process.poll() is not None, "checkpoints")
            assert [len(host.processes("RayTrainWorker")) for host in (first, second)] == [1, 1]
            kept, before = saved_step(long), events(long)
            second.run("ip", "link", "set", "eth0", "down")
            with timed("the first new step after the cut"):
                wait_until(lambda: last_step(long) > before[-1]["step"], "a step of one host")
            wait_until(lambda: last_step(long) > before[-1]["step"] + 50, "steps of one host")
            alone = events(long)
            assert alone[:kept] == before[:kept]
            second.end_ray()
            second.run("ip", "link", "set", "eth0", "up")
            second.start_ray(head=first.address)
            with timed("a worker on the mended host"):
                wait_until(lambda: second.processes("RayTrainWorker"), "a worker there")
            again = last_step(long)
            wait_until(lambda: last_step(long) > again + 50, "steps of two hosts")
            after = events(long)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 143, (out, err)
    assert [line["step"] for line in after] == list(range(1, len(after) + 1))


def training_on(host: Host, project: Project) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        # whoever enters a host's mounts stands at their root
        host.command("env", "-C", str(project.root), *stage_command("train", PLAIN)),
        env={**host.environment, "RAY_ADDRESS": f"{host.address}:{PORT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused_while_the_disk_is_not_shared(project: Project, first: Host, second: Host) -> None:
    project.work.mkdir(exist_ok=True)
    for folder, words in (
        (project.work, f"{second.address} does not see {project.work}"),
        (project.shards("tiny"), f"{second.address} cannot read {project.shards('tiny')}"),
    ):
        second.run("mount", "-t", "tmpfs", "none", str(folder))
        process = training_on(first, project)
        out, err = process.communicate(timeout=120)
        second.run("umount", str(folder))
        assert process.returncode == 2, (out, err)
        assert words in err
        assert "unset RAY_ADDRESS" in err
        assert not any(Path(project.work).glob(f"{PLAIN}-*/metrics.jsonl"))
