import numpy as np
import pytest

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE
from tests.datasets.miniatures import build_miniature


def test_unlabeled_may_be_ignored(tmp_path):
    expected = build_miniature("mapillary_v2", tmp_path)
    dataset = build_dataset("mapillary_v2", {"unlabeled": "ignore"})
    assert len(dataset.classes) == 123
    assert dataset.classes.names[-1] == "Static"
    assert dataset.classes.mirror == tuple(range(123))
    for pair in dataset.pairs(tmp_path / "unpacked")["train"]:
        values = expected.samples["train"][pair.id]
        assert (values == 123).any()
        wanted = np.where(values == 123, IGNORE, values)
        assert np.array_equal(dataset.read_labels(pair.label), wanted)
    with pytest.raises(InputError, match="unlabeled: 'drop' is neither class nor ignore"):
        build_dataset("mapillary_v2", {"unlabeled": "drop"})


def test_labels_of_the_other_version_are_refused(tmp_path):
    build_miniature("mapillary_v2", tmp_path)
    first = build_dataset("mapillary_v1", {})
    with pytest.raises(InputError, match=r"label values outside the class table: 66 \("):
        first.read_labels(next((tmp_path / "unpacked/training/v2.0/labels").glob("[!.]*.png")))
