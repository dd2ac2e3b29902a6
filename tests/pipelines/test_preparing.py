"""Prepare as Ray tasks: the same bytes, the same list of problems."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.prepare import where_to_work
from pipelines.project import Project
from segcore.errors import InputError
from segcore.preparation.processes import in_processes
from tests.pipelines.tiny_project import TABLE, main_of, write_table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture
def joined(
    ray_cluster: str, prepared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project whose raw files are there, to be prepared on a cluster."""
    project = write_table(tmp_path, TABLE)
    main_of("download")("tiny", project)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    monkeypatch.chdir(tmp_path)
    return project


def test_ray_tasks_write_the_same_bytes(joined: Project, prepared: Project, monkeypatch):
    import ray

    submitted, remote = list[str](), ray.remote
    monkeypatch.setattr(ray, "remote", lambda **options: seen(submitted, remote(**options)))
    main_of("prepare")("tiny", joined)
    assert submitted == ["write_one"]
    expected = {path.name: path.read_bytes() for path in prepared.shards("tiny").iterdir()}
    assert {path.name: path.read_bytes() for path in joined.shards("tiny").iterdir()} == expected
    assert len(expected) == 2 + 1 + 3


def seen(names: list[str], decorate: Callable[..., Any]) -> Callable[..., Any]:
    return lambda function: names.append(function.__name__) or decorate(function)


def test_problems_reach_the_one_who_asked(joined: Project):
    images = sorted(joined.raw("tiny").glob("images/*/*.png"))
    for path in (images[0], images[5], images[-1]):
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(InputError) as caught:
        main_of("prepare")("tiny", joined)
    assert str(caught.value).startswith("dataset tiny: 3 problem(s)")
    for path in (images[0], images[5], images[-1]):
        assert f"{path} cannot be decoded" in str(caught.value)


def test_what_a_task_refuses_is_told_without_its_traceback(joined: Project):
    work = joined.work / "in the way"
    work.parent.mkdir()
    work.write_text("")
    from pipelines.cluster.preparing import on_cluster
    from segcore.preparation import prepare

    dataset, table = joined.dataset("tiny")
    raw, shards = joined.raw("tiny"), joined.shards("tiny")
    with pytest.raises(InputError) as caught:
        list(prepare("tiny", dataset, raw, shards, work, table, mapper=on_cluster))
    assert "in the way" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_node_that_does_not_see_the_folder_is_named(joined: Project, monkeypatch):
    import ray

    # this node plays another one, with a disk of its own
    monkeypatch.setattr("pipelines.cluster.probes._other_nodes", ray.nodes)
    monkeypatch.setattr(
        "pipelines.cluster.probes._mark", lambda token, node: joined.root / "elsewhere" / node
    )
    (node,) = [node["NodeName"] for node in ray.nodes()]
    with pytest.raises(InputError, match=f"is not on {node}: prepare needs a disk that all nodes"):
        main_of("prepare")("tiny", joined)


def test_without_a_cluster_it_is_this_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert where_to_work() is in_processes
