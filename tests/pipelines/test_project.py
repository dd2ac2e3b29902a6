"""Where everything lies."""

from pathlib import Path

import pytest

from pipelines.project import Project
from segcore.datasets.shapes import Shapes
from segcore.errors import InputError
from tests.pipelines.tiny_project import PLAIN, SEARCHED, table, write_table


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return write_table(tmp_path, table(datasets__camvid={}, datasets__city={"drop": "/mnt/city"}))


def test_every_folder_has_one_place(project: Project, tmp_path: Path):
    assert project.raw("tiny") == tmp_path / "data/raw/tiny"
    assert project.shards("tiny") == tmp_path / "data/shards/tiny"
    assert project.run(PLAIN) == tmp_path / "runs" / PLAIN
    assert project.work == tmp_path / "work"
    assert project.reports == tmp_path / "reports"


def test_the_drop_folder_is_the_tables_or_one_of_its_own(project: Project, tmp_path: Path):
    assert project.drop("camvid") == tmp_path / "data/drop/camvid"
    assert project.drop("city") == Path("/mnt/city")


def test_a_dataset_is_built_by_its_form_with_its_options(project: Project):
    dataset, entry = project.dataset("tiny")
    assert isinstance(dataset, Shapes)
    assert (dataset.split_sizes, dataset.height, dataset.width) == ({"train": 8, "val": 4}, 48, 64)
    assert entry.images_per_shard == 4


def test_what_a_search_found_decides_over_the_row(project: Project):
    assert project.row(PLAIN).learning_rate == 0.01
    tuned = project.row(SEARCHED, {"learning_rate": 0.05, "options.width": 6})
    assert tuned.learning_rate == 0.05
    assert tuned.options == {"num_convs": 1, "auxiliary_width": 8, "width": 6}


def test_another_table_may_be_named(project: Project, tmp_path: Path):
    (tmp_path / "other.yaml").write_text("datasets: {}\n")
    with pytest.raises(InputError, match=rf"other\.yaml: no row '{PLAIN}'"):
        Project(tmp_path, tmp_path / "other.yaml").row(PLAIN)
    with pytest.raises(InputError, match=r"none\.yaml is missing; --params names another table"):
        Project(tmp_path, tmp_path / "none.yaml").row(PLAIN)


def test_shards_that_were_not_prepared_are_asked_for_by_their_command(project: Project):
    with pytest.raises(InputError, match=r"run: dvc repro prepare@tiny$"):
        project.require_shards("tiny")
    project.shards("tiny").mkdir(parents=True)
    with pytest.raises(InputError, match=r"run: dvc repro prepare@tiny$"):
        project.require_shards("tiny")
    (project.shards("tiny") / "manifest.json").write_text("{}")
    assert project.require_shards("tiny") == str(project.shards("tiny"))
