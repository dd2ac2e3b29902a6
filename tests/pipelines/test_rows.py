"""Rows from the zoo: every one resolves, and adding some leaves the rest of a table as it was."""

from pathlib import Path

import pytest

from pipelines.rows import ZOO, add, show
from segcore.errors import InputError
from segcore.params import read_params

TABLE = """\
# mine
datasets:
  shapes: {}
defaults: {workers: 1}
rows:
  fcn-resnet18-shapes: {method: fcn, backbone: resnet18, dataset: shapes}  # the first
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize("name", sorted(read_params(ZOO).rows))
def test_every_row_of_the_zoo_resolves(name: str):
    zoo = read_params(ZOO)
    run = zoo.resolve(name)
    assert name.startswith(f"{run.method}-{run.backbone}-{run.dataset}")


def test_adding_appends_and_keeps_what_stood_there(table: Path):
    zoo = read_params(ZOO)
    add(zoo, ["fcn-resnet18-camvid"], table)
    lines = table.read_text().splitlines()
    assert [line for line in TABLE.splitlines() if line not in lines] == []
    added = read_params(table)
    assert list(added.rows) == ["fcn-resnet18-shapes", "fcn-resnet18-camvid"]
    assert added.rows["fcn-resnet18-camvid"] == show(zoo, "fcn-resnet18-camvid")
    assert added.dataset("camvid") == zoo.dataset("camvid")


def test_a_dataset_that_the_table_has_stays_the_table_s(table: Path):
    table.write_text(TABLE.replace("shapes: {}", "shapes: {}\n  camvid: {drop: /mnt/camvid}"))
    add(read_params(ZOO), ["fcn-resnet18-camvid"], table)
    assert read_params(table).dataset("camvid").drop == "/mnt/camvid"


def test_a_row_is_not_added_twice(table: Path):
    zoo = read_params(ZOO)
    add(zoo, ["fcn-resnet18-camvid"], table)
    before = table.read_text()
    with pytest.raises(InputError, match="has a row 'fcn-resnet18-camvid' already"):
        add(zoo, ["fcn-resnet18-camvid"], table)
    assert table.read_text() == before


def test_an_unknown_row_gets_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'fcn-resnet18-camvid'"):
        show(read_params(ZOO), "fcn-resnet18-camvit")
