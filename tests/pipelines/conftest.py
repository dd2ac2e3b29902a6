"""One Ray cluster, and one project that went through every stage, for all tests of the stages."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import ignore_patterns
from typing import Any

import pytest

from pipelines.project import Project
from tests.pipelines.tiny_project import PLAIN, ROOT, SEARCHED, TABLE, main_of, write_table


@pytest.fixture(autouse=True)
def _embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to a tracking server, or to a Ray cluster, that the developer works with."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A cluster of four slots, whatever the machine has, by its address; stages join it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYTHONWARNINGS", "ignore")
        from pipelines.cluster.connection import ray  # with what Ray reads when it is imported

        ray.init(num_cpus=4, log_to_driver=False, logging_level=logging.ERROR)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after download and prepare. Never write to it."""
    project = write_table(tmp_path_factory.mktemp("prepared"), TABLE)
    for verb in ("download", "prepare"):
        main_of(verb)("tiny", project)
    return project


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, prepared: Project, ray_cluster: str
) -> Project:
    """The tiny project after every stage. Never write to it."""
    root = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(prepared.root, root)
    project = Project(root, root / "params.yaml")
    for verb in ("recipe", "tune", "train", "evaluate", "benchmark"):
        for row in (PLAIN, SEARCHED):
            main_of(verb)(row, project)
    main_of("report")("", project)
    return project


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Project]:
    """Copies named files and folders of a project; its table always comes along."""

    def copied(project: Project, *names: str) -> Project:
        root = tmp_path / "copy"
        root.mkdir(exist_ok=True)
        for name in ("params.yaml", *names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if (project.root / name).is_dir():
                shutil.copytree(project.root / name, root / name)
            else:
                shutil.copy2(project.root / name, root / name)
        return Project(root, root / "params.yaml")

    return copied


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Makes git repositories with this project's code and graph, and a table of their own."""

    def made(values: dict[str, Any]) -> Project:
        root = tmp_path_factory.mktemp("checkout") / "project"
        for folder in ("segcore", "pipelines"):
            shutil.copytree(ROOT / folder, root / folder, ignore=ignore_patterns("__pycache__"))
        (root / ".dvc").mkdir()
        for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config"):
            shutil.copy(ROOT / name, root / name)
        project = write_table(root, values)
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=root, check=True)
        return project

    return made
