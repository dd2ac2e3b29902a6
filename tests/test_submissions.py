"""What test servers get: names, values, colours, archives."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.submissions import FORMS, form_of, raw_ids_of, write_submission

NAMES = {
    "cityscapes": ("berlin_000000_000019_leftImg8bit", "berlin_000000_000019_labelIds.png"),
    "voc2012": ("2008_000006", "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"),
    "ade20k": ("ADE_test_00000001", "ADE_test_00000001.png"),
    "lip": ("100034_483681", "100034_483681.png"),
}


def members(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        return {name: file.read() for name, file in files.items() if file}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_a_server(form: str, tmp_path: Path):
    dataset, (given, expected) = build_dataset(form, {}), NAMES[form]
    labels = torch.arange(len(dataset.classes), dtype=torch.uint8).repeat(2, 1)
    path = tmp_path / f"x{form_of(form).archive}"
    pairs = [(given, labels), (given.replace("1", "2").replace("6", "7"), labels.flip(0, 1))]
    assert write_submission(form_of(form), dataset, iter(pairs), path) == 2
    files = members(path)
    assert len(files) == 2
    with Image.open(io.BytesIO(files[expected])) as image:
        assert image.mode == ("P" if form == "voc2012" else "L")
        values = np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
    # Read as the dataset's own label files are, they are what was predicted.
    np.testing.assert_array_equal(dataset.look_up("file", values), labels)
    if form == "voc2012":
        np.testing.assert_array_equal(colours[0], dataset.classes.colours)


def test_raw_ids_by_hand():
    cityscapes = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert raw_ids_of(build_dataset("cityscapes", {}))[:19].tolist() == cityscapes
    assert raw_ids_of(build_dataset("ade20k", {}))[:150].tolist() == list(range(1, 151))
    assert raw_ids_of(build_dataset("voc2012", {}))[:21].tolist() == list(range(21))
    assert raw_ids_of(build_dataset("lip", {}))[:20].tolist() == list(range(20))


def test_an_unknown_server_and_a_name_that_stands_twice(tmp_path: Path):
    with pytest.raises(InputError, match="no test server is known for 'camvid'; there is ade20k"):
        form_of("camvid")
    labels = torch.zeros(2, 2, dtype=torch.uint8)
    twice = [("a", labels), ("a", labels)]
    with pytest.raises(InputError, match="two images are called a"):
        write_submission(form_of("lip"), build_dataset("lip", {}), twice, tmp_path / "x.zip")
    assert not list(tmp_path.iterdir())  # nothing half done is left
