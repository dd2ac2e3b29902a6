"""A tracking server that dies while a stage trains, and comes back."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.project import Project
from pipelines.tracking import open_store
from tests.pipelines.mlflow_server import Server
from tests.pipelines.tiny_project import (
    PLAIN,
    main_of,
    stage_command,
    started,
    table,
    wait_until,
    write_table,
)

STEPS = 2000
"""Enough for a server to start again meanwhile."""


def journal(project: Project) -> list[dict]:
    files = [*project.work.glob("*/metrics.jsonl"), *project.root.glob("runs/*/metrics.jsonl")]
    lines = files[0].read_text().rpartition("\n")[0].splitlines() if files else []
    return [json.loads(line) for line in lines]


def await_steps(project: Project, stage: subprocess.Popen[str], count: int) -> None:
    wait_until(lambda: len(journal(project)) > count or stage.poll() is not None, "steps")
    assert stage.poll() is None, stage.communicate()


@pytest.mark.slow
def test_a_training_outlives_its_server_which_gets_all_of_it_later(
    prepared: Project, tmp_path: Path
):
    shutil.copytree(prepared.root, tmp_path / "project")
    recipe = {"steps": STEPS, "evaluate_every": 500, "save_every": 500}
    changes = {f"datasets__tiny__recipe__{key}": value for key, value in recipe.items()}
    values = table(**changes, **{f"rows__{PLAIN}__workers": 1})
    project = write_table(tmp_path / "project", values)
    main_of("tune")(PLAIN, project)
    (tmp_path / "server").mkdir()
    open_store(tmp_path / "store")
    server = Server(tmp_path / "server", tmp_path / "store" / "mlflow.db")
    try:
        command = stage_command("train", PLAIN)
        with started(project.root, *command, MLFLOW_TRACKING_URI=server.uri) as stage:
            await_steps(project, stage, 50)
            server.kill()
            await_steps(project, stage, len(journal(project)) + 100)
            server.start()
            out, err = stage.communicate(timeout=240)
        assert stage.returncode == 0, out + err
        client = MlflowClient(server.uri, server.uri)
        (place,) = [each for each in client.search_experiments() if each.name == "tiny"]
        (run,) = client.search_runs([place.experiment_id])
        assert run.info.status == "FINISHED"
        held = client.get_metric_history(run.info.run_id, "loss")
        losses = {each["step"]: each["loss"] for each in journal(project) if "loss" in each}
        assert {point.step: point.value for point in held} == losses
        assert len(held) == len(losses) == STEPS
        assert "missed _deliver" in err
    finally:
        server.kill()
