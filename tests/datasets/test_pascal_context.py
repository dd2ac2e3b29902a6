import numpy as np
import pytest

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE
from tests.datasets.context_files import write_label_map
from tests.datasets.miniatures import build_miniature


def test_the_forms_differ_by_one_and_by_what_the_rest_is():
    few, more = (build_dataset(f"pascal_context_{form}", {}) for form in (59, 60))
    assert more.classes.names == ("background", *few.classes.names)
    assert few.known == more.known == set(range(460))
    assert len(few.train_ids) == len(more.train_ids) == 460
    listed = few.train_ids != IGNORE
    assert listed.sum() == 59
    assert (more.train_ids[listed] == few.train_ids[listed] + 1).all()
    assert (more.train_ids[~listed] == 0).all()


def test_classes_are_the_alphabetical_ranks_of_their_ids():
    dataset = build_dataset("pascal_context_59", {})
    names = list(dataset.classes.names)
    assert names == sorted(names)
    reached = dataset.train_ids[dataset.train_ids != IGNORE]
    assert reached.tolist() == list(range(59))
    assert dataset.train_ids[[0, 2, 431, 454, 458, 459]].tolist() == [
        IGNORE,
        0,
        IGNORE,
        57,
        58,
        IGNORE,
    ]


def test_the_lists_of_all_tasks_are_read(tmp_path):
    build_miniature("pascal_context_59", tmp_path)
    pairs = build_dataset("pascal_context_59", {}).pairs(tmp_path / "unpacked")
    assert {split: len(found) for split, found in pairs.items()} == {"train": 3, "val": 1}


def test_ids_beyond_459_are_refused(tmp_path):
    write_label_map(tmp_path / "a.mat", np.array([[2, 460], [65535, 460]]))
    with pytest.raises(InputError, match=r"table: 460 \(2 pixels\), 65535 \(1 pixels\)"):
        build_dataset("pascal_context_60", {}).read_labels(tmp_path / "a.mat")
