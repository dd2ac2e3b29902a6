"""Tracking against a real SQLite store and a real server, read back through MLflow itself."""

import importlib.util
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.hardware import hardware
from pipelines.processes import this_process
from pipelines.tracking import Mirror, Store, connection, heartbeat, open_store
from pipelines.watching import MOST_POINTS, watched
from segcore.errors import InputError
from segcore.row import Run
from tests.pipelines.mlflow_server import Server, free_port
from tests.pipelines.tiny_project import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, copied by each test: making one takes seconds."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store(root)
    return root / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(prepared, tmp_path / "mlflow.db")
    return open_store(tmp_path)


AUTHOR = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")


def step(number: int, seconds: float = 0.5) -> dict:
    return {"event": "step", "step": number, "loss": 1 / (number + 1), "seconds": seconds}


def evaluated(number: int, miou: float) -> dict:
    return {"event": "evaluated", "step": number, "miou": miou}


def append(path: Path, *events: dict) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def points(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    history = client.get_metric_history(run_id, name)
    return [(each.step, each.value) for each in sorted(history, key=lambda each: each.step)]


# --- the store -----------------------------------------------------------------------------------

FIRST_START = """
import os, sys
from pathlib import Path
from pipelines.tracking import open_store

def start(name):
    with open_store(Path(sys.argv[1])).run("shapes", name, config={"seed": 1}):
        pass

children = []
for name in sys.argv[2:]:  # forked: each has the imports behind it and starts at the same moment
    children.append(os.fork())
    if children[-1] == 0:
        start(name)
        os._exit(0)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.cluster
def test_concurrent_first_starts_on_an_empty_store_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = [f"row-{number:02d}" for number in range(16)]
    command = [sys.executable, "-c", FIRST_START, str(tmp_path), *names]
    subprocess.run(command, cwd=ROOT, check=True)
    client = open_store(tmp_path).client
    (shapes,) = [each for each in client.search_experiments() if each.name == "shapes"]
    assert shapes.artifact_location == (tmp_path / "mlartifacts/shapes").as_uri()
    runs = client.search_runs([shapes.experiment_id])
    assert sorted(run.info.run_name or "" for run in runs) == names
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.search_runs(["0"]) == []


def test_a_database_that_is_none_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"mlflow\.db: .*not a database.*move a damaged one aside"):
        open_store(tmp_path)


def test_a_dead_server_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=rf"MLFLOW_TRACKING_URI={uri}: .*unset it or start the"):
        open_store(tmp_path)


@pytest.mark.long
def test_a_server_that_accepts_and_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(InputError, match=rf"{uri}: tracking failed \(timed out\)"):
            open_store(tmp_path)


def test_an_address_mlflow_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://place")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI=nosuch://place"):
        open_store(tmp_path)


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_holds_its_configuration_flat_and_whole(store: Store):
    config = {"method": "fcn", "options": {"width": 64}, "crop": [96, 128], "long": "x" * 9000}
    config |= {f"key_{number}": number for number in range(150)}
    run_id = store.start("shapes", "fcn-resnet18-shapes", config=config, tags={"commit": "abc"})
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["options.width"] == "64"
    assert run.data.params["crop"] == "[96, 128]"
    assert run.data.params["long"] == "x" * 6000
    assert len(run.data.params) == 154
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    held = store.client.download_artifacts(run_id, "config.json")
    assert json.loads(Path(held).read_text()) == config


def test_what_was_not_committed_is_a_file_of_the_run_but_not_of_its_children(
    store: Store, tmp_path: Path
):
    for command in (["init", "-q"], ["add", "-A"], [*AUTHOR, "commit", "-q", "-m", "first"]):
        (tmp_path / "row.py").touch()
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "row.py").write_text("steps = 7\n")
    parent = store.start("shapes", "study", config={})
    child = store.start("shapes", "trial", config={}, parent=parent)
    files = {
        run: {file.path for file in store.client.list_artifacts(run)} for run in (parent, child)
    }
    assert files == {parent: {"config.json", "uncommitted.diff"}, child: {"config.json"}}
    held = store.client.download_artifacts(parent, "uncommitted.diff")
    assert "+steps = 7" in Path(held).read_text().splitlines()


def test_the_same_key_is_the_same_run_and_another_key_another(store: Store):
    first = store.start("shapes", "row", config={"seed": 1}, key="row-1234")
    store.finish(first, "FAILED")
    again = store.start("shapes", "row", config={"seed": 1, "late": 2}, key="row-1234")
    other = store.start("shapes", "row", config={"seed": 1}, key="row-5678")
    assert again == first != other
    run = store.client.get_run(first)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"seed": "1", "late": "2"}


def test_what_is_not_known_is_no_tag(store: Store):
    run_id = store.start("shapes", "row", config={"init": None}, tags={"commit": None})
    data = store.client.get_run(run_id).data
    assert {"commit", "mlflow.source.git.commit"}.isdisjoint(data.tags)
    assert data.params == {"init": "null"}


def test_children_stand_under_their_parent(store: Store):
    parent = store.start("shapes", "study", config={})
    children = [store.start("shapes", f"{n}", config={}, parent=parent) for n in range(3)]
    (place,) = {store.client.get_run(parent).info.experiment_id}
    found = store.client.search_runs([place], f"tags.mlflow.parentRunId = '{parent}'")
    assert {run.info.run_id for run in found} == set(children)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_ends_as_what_stopped_it(store: Store, error: type[BaseException], status: str):
    run_id = store.start("shapes", "row", config={}, key="row")
    with pytest.raises(error), store.run("shapes", "row", config={}, key="row"):
        raise error
    info = store.client.get_run(run_id).info
    assert info.status == status
    assert info.end_time is not None


def test_a_run_whose_files_cannot_be_written_has_failed(store: Store, tmp_path: Path):
    (tmp_path / "mlartifacts").write_text("no folder")
    with pytest.raises(InputError, match="tracking failed"):
        store.start("shapes", "row", config={}, key="row")
    assert statuses(store) == ["FAILED"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(143)])
def test_a_run_that_was_stopped_while_it_started_was_killed(
    store: Store, error: BaseException, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(store.client, "log_dict", raising(error))
        with pytest.raises(BaseException, match=r"^(143)?$"):
            store.start("shapes", "row", config={}, key="row")
    assert statuses(store) == ["KILLED"]
    store.start("shapes", "row", config={}, key="row")
    assert statuses(store) == ["RUNNING"]


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def statuses(store: Store, experiment: str = "shapes") -> list[str]:
    place = store.client.get_experiment_by_name(experiment)
    assert place
    return [run.info.status for run in store.client.search_runs([place.experiment_id])]


def test_two_roots_that_make_one_experiment_at_once_share_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    first = store.start("shapes", "row", config={})
    find, asked = store.client.get_experiment_by_name, list[str]()

    def not_yet(name: str) -> Any:
        asked.append(name)
        return find(name) if len(asked) > 1 else None

    monkeypatch.setattr(store.client, "get_experiment_by_name", not_yet)
    second = store.start("shapes", "row", config={})
    assert asked == ["shapes", "shapes"]
    places = {store.client.get_run(run).info.experiment_id for run in (first, second)}
    assert len(places) == 1


def test_a_run_that_nothing_stopped_is_finished(store: Store):
    with store.run("shapes", "row", config={}) as run_id:
        assert store.client.get_run(run_id).info.status == "RUNNING"
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_a_run_whose_process_was_killed_is_ended_by_the_next_start(store: Store):
    orphan = store.start("shapes", "orphan", config={})
    mine = store.start("shapes", "mine", config={})
    host, number, started = this_process().split(":")
    store.client.set_tag(orphan, "segcore.process", f"{host}:{number}:{int(started) - 1}")
    store.start("shapes", "next", config={})
    assert store.client.get_run(orphan).info.status == "KILLED"
    assert store.client.get_run(mine).info.status == "RUNNING"


@pytest.mark.parametrize(("age", "status"), [(None, "RUNNING"), (590, "RUNNING"), (610, "KILLED")])
def test_a_run_of_another_host_that_is_silent_for_long_is_ended(
    store: Store, age: int | None, status: str
):
    """Those of a search are ended with it."""
    parent = store.start("shapes", "study", config={})
    child = store.start("shapes", "trial", config={}, parent=parent)
    for run_id in (parent, child):
        store.client.set_tag(run_id, "segcore.process", "elsewhere:1:1")
    assert "segcore.alive" not in store.client.get_run(child).data.tags
    if age is None:
        store.client.delete_tag(parent, "segcore.alive")
    else:
        store.client.set_tag(parent, "segcore.alive", str(round(time.time()) - age))
    store.start("shapes", "next", config={})
    found = [store.client.get_run(run_id).info.status for run_id in (parent, child)]
    assert found == [status, status]


def test_a_run_says_that_its_process_lives(store: Store, monkeypatch: pytest.MonkeyPatch):
    """Only as long as it does."""
    monkeypatch.setattr(heartbeat, "SECONDS_BETWEEN_BEATS", 1.0)
    monkeypatch.setattr(heartbeat, "now", lambda: "12345")
    before = set(threading.enumerate())
    with store.run("shapes", "row", config={}) as run_id:
        tags = store.client.get_run(run_id).data.tags
        wait_until(
            lambda: store.client.get_run(run_id).data.tags["segcore.alive"] == "12345", "a beat"
        )
    assert float(tags["segcore.alive"]) == pytest.approx(time.time(), abs=60)
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of the thread")


def test_a_run_that_ended_with_its_process_meanwhile_keeps_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """It was running when runs were listed, and its process is gone when that is looked at."""
    run_id, search = store.start("shapes", "row", config={}), store.client.search_runs

    def listed_before_it_ended(*query: Any) -> Any:
        found = search(*query)
        store.client.set_tag(run_id, "segcore.process", this_process() + "9")
        store.finish(run_id)
        return found

    monkeypatch.setattr(store.client, "search_runs", listed_before_it_ended)
    monkeypatch.setattr("pipelines.tracking.runs.is_dead", lambda tags: bool(tags))
    store.start("shapes", "next", config={})
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_an_experiment_deleted_in_the_pages_comes_back(store: Store):
    run_id = store.start("shapes", "row", config={})
    store.client.delete_experiment(store.client.get_run(run_id).info.experiment_id)
    assert store.start("shapes", "row", config={}) != run_id


def test_files_tables_scores_and_data_are_in_the_run(store: Store, tmp_path: Path):
    run_id = store.start("shapes", "row", config={})
    picture = tmp_path / "curve.txt"
    picture.write_text("picture")
    assert store.log_file(run_id, picture, "pictures")
    for _ in range(2):  # a resumed stage writes its table again
        assert store.log_table(run_id, "classes", ["name", "iou"], [("road", 0.5), ("pole", 0)])
    assert store.log_metrics(run_id, {"miou": 0.375, "absent": math.nan}, step=7)
    assert store.log_dataset(run_id, "shapes", "f" * 64, "data/shards/shapes", "training")
    place = tmp_path / "mlartifacts/shapes" / run_id / "artifacts"
    assert (place / "pictures/curve.txt").read_text() == "picture"
    table = json.loads((place / "classes.json").read_text())
    assert table == {"columns": ["name", "iou"], "data": [["road", 0.5], ["pole", 0]]}
    run = store.client.get_run(run_id)
    assert run.data.metrics["miou"] == 0.375
    assert math.isnan(run.data.metrics["absent"])
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("shapes", "f" * 36)
    assert json.loads(data.dataset.source)["hash"] == "f" * 64
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training"}


def test_system_metrics_are_sampled_and_leave_neither_thread_nor_status(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run_id = store.start("shapes", "row", config={})
    before = set(threading.enumerate())
    with store.system_metrics(run_id):
        wait_until(lambda: system_values(store, run_id), "a sample")
    assert set(threading.enumerate()) == before
    assert 0 < system_values(store, run_id)["system_memory_usage_percentage"] < 100
    assert store.client.get_run(run_id).info.status == "RUNNING"


DRIVER_TOOL = """#!/bin/sh
case "$1" in
--query-gpu=name) printf 'Some GPU\\nAnother\\n' ;;
*) printf '40, 1000, 4000, 70.5\\n[N/A], 2000, 4000, [N/A]\\n' ;;
esac
"""


def test_gpus_are_sampled_by_the_drivers_tool_where_its_library_is_missing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if importlib.util.find_spec("pynvml"):
        pytest.skip("the library is here")
    (tmp_path / "nvidia-smi").write_text(DRIVER_TOOL)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run_id = store.start("shapes", "row", config={}, tags={"hardware": hardware()})
    with store.system_metrics(run_id):
        wait_until(lambda: system_values(store, run_id), "a sample")
    values = system_values(store, run_id)
    assert {name: value for name, value in values.items() if name.startswith("gpu")} == {
        "gpu_0_utilization_percentage": 40,
        "gpu_0_memory_usage_megabytes": 1048.6,  # 1000 MiB
        "gpu_0_memory_usage_percentage": 25,
        "gpu_0_power_usage_watts": 70.5,
        "gpu_1_memory_usage_megabytes": 2097.2,
        "gpu_1_memory_usage_percentage": 50,
    }
    assert store.client.get_run(run_id).data.tags["hardware.gpus"] == '["Some GPU", "Another"]'


def system_values(store: Store, run_id: str) -> dict[str, float]:
    values = store.client.get_run(run_id).data.metrics
    return {
        name.removeprefix("system/"): value
        for name, value in values.items()
        if name.startswith("system/")
    }


# --- a store that is away at the end -------------------------------------------------------------


@pytest.fixture
def away(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[float]]:
    """Makes the store fail so many times before it answers; returns the pauses between."""

    def made(times: int) -> list[float]:
        answer, left, pauses = store.client.search_experiments, [times], list[float]()

        def ask(**options: Any) -> Any:
            left[0] -= 1
            if left[0] >= 0:
                raise ConnectionError("refused")
            return answer(**options)

        monkeypatch.setattr(store.client, "search_experiments", ask)
        clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
        monkeypatch.setattr(connection, "time", clock)
        return pauses

    return made


def test_a_run_ends_when_its_store_is_back(
    store: Store, away: Callable[[int], list[float]], capsys: pytest.CaptureFixture[str]
):
    pauses = away(3)
    with store.run("shapes", "row", config={}):
        pass
    assert pauses == [connection.SECONDS_BETWEEN_TRIES] * 3
    assert statuses(store) == ["FINISHED"]
    said = capsys.readouterr().err
    assert said.count("missed answer: refused") == 1
    assert said.count("waiting for it, for 10 minutes at most") == 1


def test_a_store_that_stays_away_is_named_with_the_remedy(
    store: Store, away: Callable[[int], list[float]]
):
    pauses = away(10**6)
    with (
        pytest.raises(InputError, match=r"mlflow\.db: .* away.*start the stage again: its work"),
        store.run("shapes", "row", config={}),
    ):
        pass
    assert 600 <= sum(pauses) <= 600 + connection.SECONDS_BETWEEN_TRIES
    assert statuses(store) == ["FAILED"]


def test_an_end_that_did_not_arrive_is_no_end(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store.client, "set_terminated", raising(ConnectionError("refused")))
    with pytest.raises(InputError, match="it sends the rest"), store.run("a", "row", config={}):
        pass
    assert statuses(store, "a") == ["RUNNING"]


# --- the mirror ----------------------------------------------------------------------------------


def test_a_mirror_copies_every_line_once_while_they_come(store: Store, tmp_path: Path):
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    shown = list[int]()
    with Mirror(
        store,
        run_id,
        path,
        interval_seconds=0.05,
        on_event=lambda event: shown.append(event["step"]),
    ):
        append(path, *[step(number) for number in range(5)])
        wait_until(lambda: len(points(store.client, run_id, "loss")) == 5, "five points")
        append(path, evaluated(4, 0.25), *[step(number) for number in range(5, 9)])
        with path.open("a") as file:
            file.write('{"event": "step", "st')  # its writer has not finished
    assert points(store.client, run_id, "loss") == [(n, 1 / (n + 1)) for n in range(9)]
    assert points(store.client, run_id, "miou") == [(4, 0.25)]
    assert shown == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]


def test_a_second_start_and_repeated_steps_leave_no_double(store: Store, tmp_path: Path):
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    append(path, *[step(number) for number in range(6)], evaluated(5, 0.2))
    assert Mirror(store, run_id, path).close()
    with path.open("a") as file:
        file.write('{"event": "step", "st\n')  # killed within a line
    # Resumed from the checkpoint of step 3: two steps happen again, as fast as it now goes.
    append(path, *[step(number, seconds=0.125) for number in range(4, 9)], evaluated(8, 0.3))
    assert Mirror(store, run_id, path).close()
    assert Mirror(store, run_id, path).close()
    assert points(store.client, run_id, "loss") == [(n, 1 / (n + 1)) for n in range(9)]
    assert points(store.client, run_id, "miou") == [(5, 0.2), (8, 0.3)]
    origin = store.client.get_run(run_id).info.start_time
    times = [each.timestamp - origin for each in store.client.get_metric_history(run_id, "loss")]
    assert sorted(times) == [500, 1000, 1500, 2000, 2500, 3000, 3125, 3250, 3375]


@pytest.mark.long
def test_fast_steps_are_sent_together(store: Store, tmp_path: Path):
    """A hundred steps a second: as many requests as the mirror looks at its file."""
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    send, sent = store.client.log_batch, list[int]()

    def counted(run_id: str, metrics: list) -> None:
        sent.append(len(metrics))
        send(run_id, metrics)

    store.client.log_batch = counted
    begun = time.monotonic()
    with Mirror(store, run_id, path, interval_seconds=0.5):
        for number in range(200):
            append(path, step(number, seconds=0.01))
            time.sleep(0.01)
    looks = (time.monotonic() - begun) / 0.5 + 1
    assert sum(sent) == 2 * 200
    assert len(sent) <= looks
    assert len(points(store.client, run_id, "loss")) == 200


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_rewritten_while_it_is_followed_is_read_again(
    store: Store, tmp_path: Path, replaced: bool
):
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    append(path, *[step(number) for number in range(6)])
    shown = list[int]()
    with Mirror(
        store,
        run_id,
        path,
        interval_seconds=0.05,
        on_event=lambda event: shown.append(event["step"]),
    ):
        wait_until(lambda: len(points(store.client, run_id, "loss")) == 6, "six points")
        kept = path.read_text().splitlines(keepends=True)[:3]
        if replaced:  # longer than before, and its old end lies within a line
            aside = tmp_path / "aside"
            aside.write_text("".join(kept))
            append(aside, *[step(number, seconds=0.0625) for number in range(3, 10)])
            aside.replace(path)
        else:
            path.write_text("".join(kept))
            time.sleep(0.5)
            append(path, *[step(number) for number in range(3, 10)])
    assert points(store.client, run_id, "loss") == [(n, 1 / (n + 1)) for n in range(10)]
    assert shown == list(range(10))  # a step that is taken again is no progress


def test_a_long_training_is_thinned_and_shown_whole(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    values = {"method": "fcn", "backbone": "resnet18", "dataset": "shapes", "batch_size": 2}
    values |= {"crop": (32, 32), "evaluate_every": 10, "save_every": 10}
    for steps, every in ((MOST_POINTS - 1, 1), (160_000, 32)):
        run = Run.model_validate({**values, "steps": steps})
        run_id, path = store.start("shapes", "row", config={}), tmp_path / f"{steps}.jsonl"
        lines = [step(number) | {"data_seconds": 0.0} for number in range(1, 129)]
        append(path, *lines, evaluated(127, 0.25))
        with watched("row", run, path, store, run_id):
            pass
        held = [number for number, _ in points(store.client, run_id, "loss")]
        assert held == list(range(every, 129, every))
        assert points(store.client, run_id, "miou") == [(127, 0.25)]
        said = capsys.readouterr().out
        assert f"train row: 128/{steps} steps, loss 0.008 miou 0.250" in said


def test_more_than_one_call_holds_and_thinning(store: Store, tmp_path: Path):
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    append(path, *[step(number) for number in range(1, 1201)], evaluated(1199, 0.4))
    assert Mirror(store, run_id, path).close()  # 2401 values: three calls
    assert [number for number, _ in points(store.client, run_id, "loss")] == list(range(1, 1201))
    thin = store.start("shapes", "thin", config={})
    assert Mirror(store, thin, path, every=400).close()
    assert [number for number, _ in points(store.client, thin, "loss")] == [400, 800, 1200]
    assert points(store.client, thin, "miou") == [(1199, 0.4)]
    # Thinned lines count for the clock: the last point lies 1200 half seconds after the start.
    origin = store.client.get_run(thin).info.start_time
    last = store.client.get_metric_history(thin, "seconds")
    assert max(each.timestamp for each in last) - origin == 600_000


# --- a server that dies --------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    running = Server(folder, prepared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    yield running
    if running.process.poll() is None:
        running.kill()


TRAINING = """
import json, sys, time
with open(sys.argv[1], "a", buffering=1) as file:
    for number in range(200):
        event = {"event": "step", "step": number, "loss": 1 / (number + 1), "seconds": 0.5}
        file.write(json.dumps(event) + "\\n")
        time.sleep(0.02)
"""


@pytest.mark.cluster
def test_a_server_killed_during_training_stops_nothing_and_gets_the_rest_later(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = open_store(tmp_path)
    run_id = store.start("shapes", "row", config={"seed": 1}, key="row-1")
    path = tmp_path / "metrics.jsonl"
    training = subprocess.Popen([sys.executable, "-c", TRAINING, str(path)])
    with Mirror(store, run_id, path, interval_seconds=0.1, retry_seconds=0.5):
        wait_until(lambda: len(points(store.client, run_id, "loss")) > 20, "some points")
        server.kill()
        length = path.stat().st_size
        assert training.wait() == 0
        assert path.stat().st_size > length
        assert len(path.read_text().splitlines()) == 200
        assert not store.log_metrics(run_id, {"miou": 0.5})
        assert not store.finish(run_id)
        server.start()
        wait_until(lambda: len(points(store.client, run_id, "loss")) == 200, "all points")
    said = capsys.readouterr().err
    assert said.count("missed _deliver") == 1
    assert said.count("missed set_terminated") == 1
    assert points(store.client, run_id, "loss") == [(n, 1 / (n + 1)) for n in range(200)]
    assert store.finish(run_id)
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert str(run.info.artifact_uri).startswith("mlflow-artifacts:")
    # The registry of a server: files go up and come down through it.
    for name in ("weights.safetensors", "config.json", "classes.json"):
        (tmp_path / name).write_text(name)
    assert store.register(run_id, "row", tmp_path) == store.register(run_id, "row", tmp_path) == 1
    held = store.fetch("row", "candidate")
    assert (held / "weights.safetensors").read_text() == "weights.safetensors"
    assert tmp_path not in held.parents


def test_a_mirror_of_a_dead_server_closes_with_one_line(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_id = store.start("shapes", "row", config={})
    path = tmp_path / "metrics.jsonl"
    append(path, step(0), step(1))
    dead = Store(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert not Mirror(dead, run_id, path).close()
    assert capsys.readouterr().err.count("\n") == 1
    assert Mirror(store, run_id, path).close()  # the next start, with the store back
    assert points(store.client, run_id, "loss") == [(0, 1), (1, 0.5)]
