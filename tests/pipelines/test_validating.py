"""What validate says: the audit of a dataset that can be used, every problem of one that cannot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.project import Project
from segcore.datasets import build_dataset
from segcore.datasets.shapes import Shapes
from segcore.errors import InputError
from tests.datasets.miniatures import build_miniature
from tests.pipelines.tiny_project import TABLE, main_of, write_table


def orchard(root: Path, **keys: object) -> Project:
    """Eight photos of a person's own, two of them to validate on."""
    for number in range(8):
        generator = np.random.default_rng(number)
        for folder, pixels in (
            ("photos", generator.integers(0, 256, (10, 20, 3), np.uint8)),
            ("labels", np.repeat(np.array([[0, 1, 1, 255]], np.uint8), 10, 0).repeat(5, 1)),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    (root / "train.txt").write_text("0\n1\n2\n3\n4\n5\n")
    (root / "val.txt").write_text("6\n7\n")
    options = {
        "root": str(root),
        "images": "photos/{stem}.png",
        "labels": "labels/{stem}.png",
        "classes": ["soil", "leaf", "fruit"],
        "split": {"train": "train.txt", "val": "val.txt"},
    }
    return write_table(
        root, {"datasets": {"orchard": {"form": "folder", "options": options} | keys}}
    )


def test_a_good_dataset_is_described_and_nothing_is_written(tmp_path: Path, capsys):
    project = orchard(tmp_path)
    Image.new("L", (20, 10), 255).save(tmp_path / "labels/3.png")
    main_of("validate")("orchard", project)
    said = capsys.readouterr().out
    assert "soil                      21.88 % of all pixels" in said
    assert "fruit                      0.00 % of all pixels" in said
    assert "ignored                   34.38 % of all pixels" in said
    assert (
        "orchard train: 6 images; 37.50 % not labelled; absent: fruit; "
        "1 without any label (first: 3)\n" in said
    )
    assert "orchard val: 2 images; 25.00 % not labelled; absent: fruit\n" in said
    assert said.endswith("orchard: every image and label can be used\n")
    assert not project.work.exists()
    assert not project.shards("orchard").exists()


def test_every_problem_is_told_with_what_could_be_counted(tmp_path: Path, capsys):
    project = orchard(tmp_path)
    (tmp_path / "photos/2.png").write_bytes(b"")
    Image.new("RGB", (20, 10)).save(tmp_path / "labels/4.png")
    Image.open(tmp_path / "photos/0.png").save(tmp_path / "photos/7.png", compress_level=0)
    with pytest.raises(InputError) as caught:
        main_of("validate")("orchard", project)
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("dataset orchard: 3 problem(s)")
    for name, line in zip(("labels/4.png", "photos/2.png", "0 of train"), lines, strict=True):
        assert name in line
    assert "leaf                      50.00 % of all pixels" in capsys.readouterr().out


def test_what_may_be_left_out_is_named(tmp_path: Path, capsys):
    project = orchard(tmp_path, skip_bad=1)
    (tmp_path / "photos/2.png").write_bytes(b"")
    main_of("validate")("orchard", project)
    said = capsys.readouterr().out
    assert "orchard train: 5 images" in said
    assert f"left out train/2: {tmp_path}/photos/2.png (0 bytes) is no image" in said


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_what_is_fetched_must_be_here_already(tmp_path: Path, monkeypatch):
    """Nothing is downloaded to be looked at, and no label drawn anew."""
    build_miniature("camvid", tmp_path / "mine")
    drop = str(tmp_path / "mine/unpacked")
    project = write_table(tmp_path, {"datasets": {"street": {"form": "camvid", "drop": drop}}})
    raw = project.raw("street")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"not in {raw}; run: dvc repro download@street"):
        main_of("validate")("street", project)
    assert tree(tmp_path) == before
    main_of("download")("street", project)
    before = tree(tmp_path)
    monkeypatch.setattr("segcore.acquisition.bringing.bring", None)
    with pytest.raises(InputError, match=r"dataset street: 3 problem\(s\).*\n .*3 images, 367 exp"):
        main_of("validate")("street", project)
    assert tree(tmp_path) == before


def test_raw_files_that_are_there_are_looked_at_where_they_lie(tmp_path: Path, capsys, monkeypatch):
    project = write_table(tmp_path, TABLE)
    main_of("download")("tiny", project)
    (project.raw("tiny") / "images/val/00002.png").write_bytes(b"")
    before = tree(tmp_path)
    monkeypatch.setattr(Shapes, "acquire", None)
    with pytest.raises(InputError, match=r"images/val/00002\.png \(0 bytes\) is no image"):
        main_of("validate")("tiny", project)
    assert tree(tmp_path) == before


def test_what_is_made_is_made_elsewhere(tmp_path: Path, capsys):
    project = write_table(tmp_path, TABLE)
    main_of("validate")("tiny", project)
    said = capsys.readouterr().out
    assert said.endswith("tiny: every image and label can be used\n")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    dataset = build_dataset("shapes", TABLE["datasets"]["tiny"]["options"])
    sky = sum(np.count_nonzero(dataset.draw(s, n)[1] == 0) for s, n in scenes(dataset.split_sizes))
    assert f"{dataset.classes.names[0]:<24} {100 * sky / (12 * 48 * 64):6.2f} %" in said


def scenes(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return [(split, number) for split, size in sizes.items() for number in range(size)]
