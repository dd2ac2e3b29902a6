from collections import Counter
from pathlib import Path

import pytest

from segcore.datasets import build_dataset
from segcore.errors import InputError
from segcore.types import IGNORE
from tests.datasets.miniatures import oxford_pet, write_lines


@pytest.fixture
def full(tmp_path) -> Path:
    """The lists at their published lengths, 3,680 and 3,669 names in 37 breeds, in any order."""
    for split, count in ("trainval", 3680), ("test", 3669):
        rows = ((number % 37 + 1, number) for number in range(count))
        lines = [f"breed{breed}_{split}{number} {breed} 1 1" for breed, number in rows]
        write_lines(tmp_path / f"annotations/{split}.txt", lines[::-1])
    return tmp_path


def test_every_breed_gives_a_tenth_to_val(full):
    dataset = build_dataset("oxford_pet", {})
    found = dataset.pairs(full)
    assert {split: len(pairs) for split, pairs in found.items()} == dataset.split_sizes
    names = {split: {pair.id for pair in pairs} for split, pairs in found.items()}
    assert len(set.union(*names.values())) == 3680 + 3669
    assert not any("trainval" in name for name in names["test"])
    breeds = Counter(name.split("_")[0] for name in names["val"])
    assert len(breeds) == 37
    assert set(breeds.values()) == {9, 10}


def test_the_draw_does_not_depend_on_the_order_of_the_list(full):
    dataset = build_dataset("oxford_pet", {})
    before = dataset.pairs(full)
    path = full / "annotations/trainval.txt"
    write_lines(path, sorted(path.read_text().splitlines()))
    assert dataset.pairs(full) == before


def test_two_classes_ignore_the_border(tmp_path):
    expected = oxford_pet.build(tmp_path)
    three, two = (build_dataset("oxford_pet", {"classes": count}) for count in (3, 2))
    assert two.classes.names == ("background", "pet")
    assert two.classes.colours == ((0, 0, 0), (220, 60, 60))
    for pair in two.pairs(tmp_path / "unpacked")["val"]:
        values = expected.samples["val"][pair.id]  # 0 pet, 1 background, 2 border
        assert three.read_labels(pair.label).tolist() == values.tolist()
        slow = [[{0: 1, 1: 0, 2: IGNORE}[value] for value in row] for row in values.tolist()]
        assert two.read_labels(pair.label).tolist() == slow


def test_wrong_options_and_lists_are_named(tmp_path):
    with pytest.raises(InputError, match="classes: 4 is neither 2 nor 3"):
        build_dataset("oxford_pet", {"classes": 4})
    dataset = build_dataset("oxford_pet", {})
    with pytest.raises(InputError, match=r"trainval\.txt is missing; annotations\.tar\.gz holds"):
        dataset.pairs(tmp_path)
    write_lines(tmp_path / "annotations/trainval.txt", ["# a comment", "Abyssinian_1 1 1 1", "a b"])
    with pytest.raises(InputError, match=r"trainval\.txt, line 3: .*'a b'"):
        dataset.pairs(tmp_path)
