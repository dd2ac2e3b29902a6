import inspect
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segcore.datasets import build_dataset
from segcore.datasets.folder import Folder
from segcore.download import download
from segcore.errors import InputError
from segcore.files import read_json
from segcore.preparation import Survey, in_processes, prepare
from segcore.preparation.pairs import KINDS
from segcore.preparation.tasks import examine
from segcore.tables import DatasetTable
from segcore.types import IGNORE


@pytest.fixture
def root(tmp_path) -> Path:
    """Ten photos in two sub-folders, each with an index label of the same stem."""
    for number in range(10):
        stem = f"{'east' if number % 2 else 'west'}/{number}"
        write(tmp_path / f"photos/{stem}.jpg", np.full((2, 4, 3), number, np.uint8))
        write(tmp_path / f"labels/{stem}.png", np.array([[0, 1, 2, 3], [255] * 4], np.uint8))
    return tmp_path


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def options_of(root: Path) -> dict[str, Any]:
    return {
        "root": str(root),
        "images": "photos/{stem}.jpg",
        "labels": "labels/{stem}.png",
        "split": {"val": 0.2, "seed": 0},
        "classes": {"soil": 0, "leaf": [1, 2], "fruit": 3},
    }


def build(root: Path, **changes) -> Folder:
    options = options_of(root) | changes
    dataset = build_dataset("folder", {k: v for k, v in options.items() if v is not None})
    assert isinstance(dataset, Folder)
    return dataset


def ids(dataset: Folder) -> dict[str, list[str]]:
    return {split: [pair.id for pair in pairs] for split, pairs in dataset.pairs(Path()).items()}


def test_the_documented_example_works(root):
    text = inspect.getdoc(Folder) or ""
    example = text[text.index("datasets:") : text.index("``images``:")]
    table = yaml.safe_load(textwrap.dedent("    " + example))["datasets"]["orchard"]
    assert len(example.strip().splitlines()) <= 15
    assert table.pop("form") == "folder"
    dataset = build_dataset("folder", table["options"] | {"root": str(root)})
    assert dataset.split_sizes == {"train": 8, "val": 2}
    assert dataset.classes.names == ("soil", "leaf", "fruit")


def test_several_values_make_one_class(root):
    dataset = build(root)
    label = dataset.pairs(Path())["train"][0].label
    assert dataset.read_labels(label).tolist() == [[0, 1, 1, 2], [IGNORE] * 4]


def test_fraction_is_a_partition_drawn_by_the_seed(root):
    first, again, other = (ids(build(root, split={"val": 0.3, "seed": s})) for s in (0, 0, 1))
    assert first == again != other
    assert sorted(first["train"] + first["val"]) == sorted(
        f"{'east' if number % 2 else 'west'}/{number}" for number in range(10)
    )
    assert [len(first[split]) for split in ("train", "val")] == [7, 3]


def test_fraction_of_the_others_survives_new_images(root):
    before = set(ids(build(root, split={"val": 0.5}))["val"])
    write(root / "photos/new.jpg", np.zeros((3, 4, 3), np.uint8))
    write(root / "labels/new.png", np.zeros((3, 4), np.uint8))
    after = set(ids(build(root, split={"val": 0.5}))["val"])
    assert len(before - after) <= 1


def test_three_splits(root):
    assert build(root, split={"val": 0.2, "test": 0.3}).split_sizes == {
        "train": 5,
        "val": 2,
        "test": 3,
    }


def test_a_pattern_per_split(root):
    (root / "labels/west").rename(root / "labels/train")
    (root / "labels/east").rename(root / "labels/val")
    images = {"train": "photos/west/*.jpg", "val": "photos/east/*.jpg"}
    dataset = build(root, images=images, labels="labels/{split}/{stem}.png", split=None)
    assert ids(dataset) == {"train": list("02468"), "val": list("13579")}
    assert dataset.pairs(Path())["val"][2].label == root / "labels/val/5.png"


def test_stem_between_prefix_and_suffix(tmp_path):
    for name in ("a/x", "b/y"):
        write(tmp_path / f"{name}_photo.jpg", np.zeros((2, 2, 3), np.uint8))
        write(tmp_path / f"{name}_label.png", np.zeros((2, 2), np.uint8))
    dataset = build(
        tmp_path, images="{stem}_photo.*", labels="{stem}_label.png", split={"val": 0.5}
    )
    assert sorted(stem for part in ids(dataset).values() for stem in part) == ["a/x", "b/y"]


def test_labels_as_a_folder_and_hidden_files_passed_over(root):
    (root / "photos/west/._0.jpg").write_bytes(b"resource fork")
    dataset = build(root, labels="labels")
    assert sum(dataset.split_sizes.values()) == 10


def test_lists_of_stems(root):
    (root / "train.txt").write_text("west/0\nwest/2\n\n")
    (root / "val.txt").write_text("east/1\n")
    dataset = build(root, split={"train": "train.txt", "val": "val.txt"})
    assert ids(dataset) == {"train": ["west/0", "west/2"], "val": ["east/1"]}


def test_root_may_be_relative(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    dataset = build(Path(root.name))
    assert dataset.pairs(Path())["val"][0].label.is_file()


def test_names_alone_stand_for_0_1_2(root):
    dataset = build(root, classes=["a", "b", "c", "d"])
    label = dataset.pairs(Path())["train"][0].label
    assert dataset.read_labels(label).tolist() == [[0, 1, 2, 3], [IGNORE] * 4]


def test_palette_labels_are_read_as_indices(root):
    dataset = build(root)
    path = dataset.pairs(Path())["train"][0].label
    image = Image.fromarray(np.array([[3, 0], [255, 2]], np.uint8))
    image = image.convert("P")
    image.putpalette([9, 9, 9] * 256)
    image.save(path)
    assert dataset.read_labels(path).tolist() == [[2, 0], [IGNORE, 1]]


def test_a_mask_of_one_bit_is_an_index_image(root):
    dataset = build(root, classes=["background", "leaf"])
    path = dataset.pairs(Path())["train"][0].label
    write(path, np.array([[True, False, True]]))
    assert dataset.read_labels(path).tolist() == [[1, 0, 1]]


RGB = {"soil": [96, 64, 0], "leaf": [[0, 128, 0], [0, 129, 0]]}


def test_colour_labels(root):
    dataset = build(root, encoding="colour", classes=RGB, ignore=[0, 0, 0])
    path = dataset.pairs(Path())["train"][0].label
    write(path, np.array([[[0, 129, 0], [0, 0, 0]], [[96, 64, 0], [0, 128, 0]]], np.uint8))
    assert dataset.read_labels(path).tolist() == [[1, IGNORE], [0, 1]]
    assert dataset.classes.colours == ((96, 64, 0), (0, 128, 0))


def test_colour_labels_equal_a_slow_lookup(root):
    classes = {str(i): [i % 7 * 40, i % 5 * 60, i % 3 * 100] for i in range(105)}
    dataset = build(root, encoding="colour", classes=classes)
    pixels = np.random.default_rng(0).choice(list(classes.values()), (20, 30)).astype(np.uint8)
    write(root / "label.png", pixels)
    slow = [[list(classes.values()).index(c) for c in row] for row in pixels.tolist()]
    assert dataset.read_labels(root / "label.png").tolist() == slow


def test_unknown_colour_is_named_with_its_count(root):
    dataset = build(root, encoding="colour", classes=RGB)
    write(root / "odd.png", np.array([[[96, 64, 0], [1, 2, 3], [1, 2, 3]]], np.uint8))
    with pytest.raises(InputError, match=r"odd\.png.*\(1, 2, 3\) \(2 pixels\)"):
        dataset.read_labels(root / "odd.png")


def test_unknown_value_is_named_with_its_count(root):
    dataset = build(root, classes=["a", "b", "c"])
    with pytest.raises(InputError, match=r"\.png.*3 \(1 pixels\)"):
        dataset.read_labels(dataset.pairs(Path())["val"][0].label)


def test_255_made_up_colours_are_distinct_and_keep_off_the_given_ones(root):
    names = [f"class {index}" for index in range(255)]
    plain = build(root, classes=names).classes.colours
    assert len(set(plain)) == 255
    given = build(root, classes=names, colours={"class 9": list(plain[0])}).classes.colours
    assert given[9] == plain[0]
    assert len(set(given)) == 255


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": "nowhere"}, r"root: .*nowhere is no folder"),
        ({"images": "photos/{stem}.tiff"}, r"no file fits 'photos/\{stem\}\.tiff'"),
        ({"images": ["a"]}, r"images: \['a'\] does not fit; an example"),
        ({"labels": "masks/{stem}.png"}, r"images of split train have no label.*\n .*masks/"),
        ({"split": None}, "split: needed with one pattern"),
        ({"images": {"train": "photos/**/*.jpg"}}, "or a pattern per split"),
        ({"split": {"val": 1.5}}, r"split: \{'val': 1\.5\} does not fit"),
        ({"split": {"val": 0.99}}, "leave some of 10 images to train"),
        ({"split": {"val": 0.2, "seed": 0.5}}, "seed: 0.5 does not fit"),
        ({"split": {"train": "gone.txt", "val": "gone.txt"}}, r"gone\.txt is missing"),
        ({"classes": {"soil": 0, "leaf": [0, 1]}}, "leaf: label value 0 has a meaning already"),
        ({"classes": {"soil": 0}, "ignore": [0]}, "ignore: label value 0 has a meaning already"),
        ({"classes": {"soil": 256}}, "class soil: 256 does not fit"),
        ({"classes": {"soil": "0"}}, "class soil: '0' does not fit"),
        ({"classes": []}, "classes: there are 0"),
        ({"classes": {"soil": 0, "leaf": []}}, "class leaf: nothing stands for it"),
        ({"classes": {"soil": []}, "encoding": "colour"}, "class soil: nothing stands for it"),
        ({"classes": ["soil", "soil"]}, "a name stands twice"),
        ({"classes": ["soil"], "encoding": "colour"}, "classes: .* does not fit"),
        ({"classes": {"soil": 3}, "encoding": "colour"}, r"class soil: 3 .*\[99, 0, 0\]"),
        ({"encoding": "rgb"}, "encoding: 'rgb' is neither index nor colour"),
        ({"colours": {"sol": [1, 2, 3]}}, "colours: no class 'sol'; did you mean 'soil'"),
        ({"colours": {"soil": [1, 2, 300]}}, "colours: .* does not fit"),
        ({"folder": "x"}, "has no option 'folder'"),
    ],
)
def test_refusals_name_the_option_and_the_remedy(root, changes, message):
    with pytest.raises(InputError, match=message):
        build_dataset("folder", options_of(root) | changes)


# --- what is told with all else ------------------------------------------------------------------


def told(dataset: Folder, **keys: Any) -> list[str]:
    """All that is wrong with the files, as validate says it; nothing is written."""
    table = DatasetTable.model_validate(keys)
    survey = Survey("orchard", dataset, Path("nowhere"), table, Path("nowhere"))
    list(survey.run(examine, in_processes))
    with pytest.raises(InputError) as caught:
        survey.manifest()
    return [line.strip() for line in str(caught.value).splitlines()]


def test_missing_labels_are_problems_and_may_be_left_out(root, tmp_path):
    for stem in ("west/0", "east/1"):
        (root / f"labels/{stem}.png").unlink()
    head, *lines = told(build(root))
    assert head.startswith("dataset orchard: 2 problem(s)")
    assert lines == [f"{root}/labels/{stem}.png is missing" for stem in ("east/1", "west/0")]
    out, work = tmp_path / "out", tmp_path / "work"
    table = DatasetTable(skip_bad=2)
    list(prepare("orchard", build(root), Path(), out, work, table))
    skipped = read_json(out / "manifest.json")["skipped"]
    assert sorted(bad["id"] for bad in skipped) == ["east/1", "west/0"]


def test_missing_labels_do_not_stop_download(root, tmp_path):
    (root / "labels/west/0.png").unlink()
    files = download(build(root), tmp_path / "raw", tmp_path / "drop")["files"]
    assert len(files) == 19


def test_an_image_in_two_lists_is_a_problem(root):
    (root / "a.txt").write_text("west/0\nwest/2\n")
    (root / "b.txt").write_text("west/2\n")
    lines = told(build(root, split={"train": "a.txt", "val": "b.txt"}))
    assert f"{root}/photos/west/2.jpg is in split train and again in val" in "".join(lines)


def test_everything_is_told_at_once(root):
    (root / "train.txt").write_text("west/0\nwest/9\nwest/0\neast/1\n")
    (root / "val.txt").write_text("west/2\nnobody\n")
    write(root / "photos/west/4.png", np.zeros((2, 2, 3), np.uint8))
    (root / "labels/east/1.png").write_bytes(b"")
    (root / "labels/west/2.png").unlink()
    dataset = build(root, images="photos/{stem}.*", split={"train": "train.txt", "val": "val.txt"})
    head, *lines = told(dataset)
    assert head.startswith("dataset orchard: 6 problem(s)")
    assert [line.removeprefix(f"{root}/") for line in lines] == [
        f"photos/west/4.jpg and {root}/photos/west/4.png share a stem; narrow the pattern",
        "train.txt names 'west/9', but no image fits; correct line 2",
        "train.txt names 'west/0' again; remove line 3",
        "val.txt names 'nobody', but no image fits; correct line 2",
        f"labels/east/1.png (0 bytes) is no image; {KINDS}",
        "labels/west/2.png is missing",
    ]


# --- lists ---------------------------------------------------------------------------------------


def test_lists_may_name_paths_files_and_labels(root):
    write(root / "elsewhere/mine.png", np.zeros((3, 4), np.uint8))
    lines = ["photos/west/0.jpg", f"{root}/photos/east/1.jpg", "west/2.jpg", "./photos/west/4.jpg"]
    lines += ["photos/east/3.jpg elsewhere/mine.png", "east/5,labels/east/5.png"]
    (root / "train.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (root / "val.txt").write_text("east/7\n")
    dataset = build(root, split={"train": "train.txt", "val": "val.txt"})
    assert dataset.problems == []
    found = {pair.id: pair for pair in dataset.pairs(Path())["train"]}
    assert sorted(found) == ["east/1", "east/3", "east/5", "west/0", "west/2", "west/4"]
    assert found["east/3"].label == root / "elsewhere/mine.png"
    assert found["east/5"].label == root / "labels/east/5.png"


def test_a_list_of_stems_with_blanks_in_them(root):
    for name in ("one tree", "two trees"):
        write(root / f"photos/{name}.jpg", np.zeros((3, 4, 3), np.uint8))
        write(root / f"labels/{name}.png", np.zeros((3, 4), np.uint8))
    (root / "train.txt").write_text("one tree\nphotos/two trees.jpg\n")
    (root / "val.txt").write_text("west/0\n")
    dataset = build(root, split={"train": "train.txt", "val": "val.txt"})
    assert ids(dataset)["train"] == ["one tree", "two trees"]


def test_a_list_that_is_no_utf8_or_empty_is_refused(root):
    (root / "a.txt").write_bytes("west/\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt: byte 5 is no UTF-8"):
        build(root, split={"train": "a.txt", "val": "a.txt"})
    (root / "a.txt").write_text("\n")
    with pytest.raises(InputError, match=r"a\.txt is missing or empty"):
        build(root, split={"train": "a.txt", "val": "a.txt"})


# --- where files lie -----------------------------------------------------------------------------


def test_hidden_folders_are_passed_over_and_links_followed(root, tmp_path):
    for number, place in enumerate((".thumbs", "west/.ipynb_checkpoints")):
        write(root / f"photos/{place}/{number}.jpg", np.zeros((3, 4, 3), np.uint8))
    write(root / "camera/a/8.jpg", np.zeros((3, 4, 3), np.uint8))
    write(root / "labels/north/a/8.png", np.zeros((3, 4), np.uint8))
    (root / "photos/north").symlink_to(root / "camera")
    (root / "photos/again").symlink_to(root / "photos/west")
    (root / "photos/loop").symlink_to(root / "photos")
    (root / "camera/loop").symlink_to("loop")
    dataset = build(root)
    stems = {stem for part in ids(dataset).values() for stem in part}
    assert len(stems) == 11
    assert "north/a/8" in stems
    assert dataset.problems == []


def test_a_link_to_nothing_is_a_problem(root):
    (root / "photos/west/gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "photos/west/loop.jpg").symlink_to("loop.jpg")
    assert told(build(root))[1:] == [
        f"{root}/photos/west/{name}.jpg is a link to nothing; mend it, or remove it"
        for name in ("gone", "loop")
    ]


def test_a_folder_that_cannot_be_read_is_a_problem(root, monkeypatch):
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("photos/east"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = build(root)
    assert dataset.problems == [f"{root}/photos/east cannot be read: Permission denied; mend it"]
    assert sum(dataset.split_sizes.values()) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_name_that_is_no_utf8_is_a_problem(root):
    os.rename(root / "photos/west/0.jpg", os.fsencode(root / "photos/west") + b"/\xe9.jpg")
    (root / "labels/west/0.png").unlink()
    (line,) = told(build(root))[1:]
    assert line == rf"{root}/photos/west/\xe9.jpg has a name that is no UTF-8; rename it"


def test_what_is_left_out_is_told(root):
    for number in range(3):
        write(root / f"photos/west/IMG{number}.JPG", np.zeros((3, 4, 3), np.uint8))
    write(root / "photos/a.bmp", np.zeros((3, 4, 3), np.uint8))
    (root / "photos/Thumbs.db").write_bytes(b"")
    write(root / "labels/lost.png", np.zeros((3, 4), np.uint8))
    notes = build(root).notes(Path("nowhere"))
    assert notes == [
        "4 files below photos fit no pattern of images (.JPG 3, .bmp 1)",
        "1 labels belong to no image (first: labels/lost.png)",
    ]
    (root / "photos/a.jpg").write_bytes(b"")
    assert told(build(root))[-2:] == [f"beside that: {note}" for note in notes]


def test_labels_beside_images_and_unlisted_images_are_not_left_out(root):
    for path in sorted((root / "labels").rglob("*.png")):
        path.rename(root / "photos" / path.relative_to(root / "labels"))
    (root / "train.txt").write_text("west/0\n")
    (root / "val.txt").write_text("east/1\n")
    split = {"train": "train.txt", "val": "val.txt"}
    assert build(root, labels="photos/{stem}.png", split=split).notes(Path()) == []
    with pytest.raises(InputError, match=r"no file fits .*correct the pattern; 20 files below"):
        build(root, images="photos/{stem}.webp", labels="photos/{stem}.png")
