"""What validate says: the audit of a dataset that can be used, every problem of one that cannot."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.project import Project
from segcore.errors import InputError
from tests.pipelines.tiny_project import main_of, write_table


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
