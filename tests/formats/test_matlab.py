import re

import numpy as np
import pytest
from scipy.io import savemat

from segcore.errors import InputError
from segcore.formats.matlab import label_map, read_matlab

VALUES = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize("form", [np.uint8, np.uint16, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_label_maps_of_any_type_are_read(tmp_path, form, compressed):
    path = tmp_path / "a.mat"
    savemat(path, {"S": (VALUES * 21).astype(form), "other": 1.5}, do_compression=compressed)
    found = read_matlab(path, "S", "absent")
    assert set(found) & {"S", "other", "absent"} == {"S"}
    raw = label_map(path, found["S"])
    assert raw.tolist() == (VALUES * 21).tolist()
    assert raw.dtype.kind in "ui"


@pytest.mark.parametrize("rows", [1, 5])
def test_a_line_of_pixels_stays_a_map(tmp_path, rows):
    savemat(tmp_path / "a.mat", {"S": np.ones((rows, 1), np.uint8)})
    assert label_map(tmp_path, read_matlab(tmp_path / "a.mat", "S")["S"]).shape == (rows, 1)


def test_every_cut_is_told_with_the_files_name(tmp_path):
    whole, path = tmp_path / "whole.mat", tmp_path / "cut.mat"
    labels = np.random.default_rng(0).integers(0, 99, (30, 40))
    savemat(whole, {"S": labels.astype(np.uint8)}, do_compression=True)
    content = whole.read_bytes()
    for length in [0, 1, 60, 127, 128, 130, 140, 300, len(content) // 2, len(content) - 9]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"^{re.escape(str(path))} "):
            read_matlab(path, "S")


@pytest.mark.parametrize("content", [b"<html>gone</html>" * 20, b"\x89PNG\r\n\x1a\n" + bytes(200)])
def test_what_is_no_matlab_file_is_told_with_its_size(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(InputError, match=rf"\({len(content)} bytes\) is no whole MATLAB file"):
        read_matlab(tmp_path / "a.mat", "S")


def test_missing_file_and_missing_variable(tmp_path):
    with pytest.raises(InputError, match=r"none\.mat is missing"):
        read_matlab(tmp_path / "none.mat", "S")
    savemat(tmp_path / "a.mat", {"LabelMap": VALUES})
    with pytest.raises(InputError, match=r"a\.mat holds no variable S"):
        read_matlab(tmp_path / "a.mat", "S")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros((2, 2, 3)), r"a label map was expected, this is float64 \(2, 2, 3\)"),
        (np.array(["a"]), "a label map was expected"),
        (np.zeros((0, 0), np.uint8), r"this is uint8 \(0, 0\)"),
        (np.array([[1.0, 2.5]]), "label ids must be whole numbers"),
        (np.array([[1.0, np.inf]]), "label ids must be whole numbers"),
        (np.array([[1.0, np.nan]]), "label ids must be whole numbers"),
    ],
)
def test_other_values_are_refused(tmp_path, value, told):
    with pytest.raises(InputError, match=rf"x\.mat: .*{told}"):
        label_map(tmp_path / "x.mat", value)
