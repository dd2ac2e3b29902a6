"""The plan of a row, as a person asks for it."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from pipelines.plan import plan
from pipelines.project import Project
from segcore.datasets import build_dataset
from segcore.measure import count_parameters
from segcore.model_files import build_network
from tests.pipelines.tiny_project import PLAIN, ROOT, SEARCHED, TABLE, table, write_table

pytestmark = pytest.mark.long


def told(project: Project, row: str, **asked: Any) -> dict[str, str]:
    """What each line says, by its name."""
    defaults = {"device": "cpu", "memory": 1.0, "step_seconds": None, "price": None}
    head, *lines = plan(Namespace(row=row, **(defaults | asked)), project)
    assert head.startswith(f"{row}: ")
    return {line[2:17].strip(): line[17:] for line in lines}


def test_what_is_counted_is_the_rows(tmp_path: Path):
    project = write_table(tmp_path, TABLE)
    run = project.row(PLAIN)
    classes = len(build_dataset("shapes", {}).classes)
    parameters = count_parameters(build_network(run, classes))
    lines = told(project, PLAIN, step_seconds=0.9, price=2.5)
    assert lines["parameters"] == f"{parameters / 1e6:.2f} M"
    assert lines["steps"] == "12 of 4 images of 32x32"
    assert lines["time"] == f"{12 * 0.9 / 3600:.2f} h at 0.900 s a step"
    assert lines["cost"] == f"{12 * 0.9 / 3600 * 2 * 2.5:.2f} at most"  # two workers
    assert "on the cpu of each of 2" in lines["peak memory"]


def test_a_search_is_counted_too(tmp_path: Path):
    project = write_table(tmp_path, TABLE)
    lines = told(project, SEARCHED, step_seconds=600.0, price=1.0)
    assert lines["time"] == "2.00 h at 600.000 s a step"
    assert lines["search"] == "at most 1.00 worker hours: 3 trials of 2"
    assert lines["cost"] == "3.00 at most"


def test_what_does_not_fit_is_said_with_the_setting_to_change(tmp_path: Path):
    changes = {"datasets__tiny__recipe__crop": [512, 512], f"rows__{PLAIN}__workers": 1}
    project = write_table(tmp_path, table(**changes, datasets__tiny__recipe__batch_size=16))
    lines = told(project, PLAIN, memory=0.3, step_seconds=1.0)
    most = int(lines["largest batch"].split(",")[0])
    assert 2 <= most < 16
    assert lines["largest batch"].endswith(f"now 16 do not fit: set micro_batch to {most}")
    assert float(lines["peak memory"].split()[0]) > 0.3
    smaller = table(**changes, datasets__tiny__recipe__batch_size=16)
    smaller["rows"][PLAIN]["micro_batch"] = most
    lines = told(write_table(tmp_path, smaller), PLAIN, memory=0.3, step_seconds=1.0)
    assert float(lines["peak memory"].split()[0]) <= 0.3
    assert "do not fit" not in lines["largest batch"]


def test_workers_of_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("segcore.planning.memory_of", lambda device: 8e9)
    ends = dict[tuple[str, int], str]()
    for device in ("cpu", "cuda"):
        for workers in (1, 2):
            project = write_table(tmp_path, table(**{f"rows__{PLAIN}__workers": workers}))
            lines = told(project, PLAIN, device=device, memory=None, step_seconds=1.0)
            ends[device, workers] = lines["largest batch"].rpartition(" in ")[2]
    assert ends == {
        ("cpu", 1): "8.0 GB",
        ("cpu", 2): "4.0 GB",
        ("cuda", 1): "8.0 GB",  # each worker has one of its own
        ("cuda", 2): "8.0 GB",
    }


def test_a_device_of_unknown_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("segcore.planning.memory_of", lambda device: None)
    project = write_table(tmp_path, TABLE)
    lines = told(project, PLAIN, device="cuda", memory=None, step_seconds=1.0)
    assert lines["largest batch"] == "give --memory, the GB of a worker's device"


def test_time_is_measured_where_the_data_is(prepared: Project):
    lines = told(prepared, PLAIN)
    assert lines["epochs"] == "6.0 of 8 images"
    assert float(lines["time"].split(" at ")[1].split()[0]) > 0


def test_data_that_is_not_there_is_named(tmp_path: Path):
    lines = told(write_table(tmp_path, TABLE), PLAIN)
    assert lines["time"] == "run dvc repro prepare@tiny, or give --step-seconds"
    assert "epochs" not in lines


@pytest.mark.long
def test_a_published_row_is_planned_from_the_command_line():
    command = [sys.executable, "-m", "pipelines.plan", "ocrnet-resnet101s-cityscapes"]
    command += ["--params", "pipelines/zoo.yaml", "--device", "cuda", "--memory", "24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "parameters     57.99 M" in done.stdout
    wrong = [*command[:3], "nosuch", *command[4:]]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no row 'nosuch'" in done.stderr
    assert "Traceback" not in done.stderr
