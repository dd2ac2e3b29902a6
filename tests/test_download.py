import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import segcore.download
from pipelines.download import Shown
from segcore.acquisition.archives import Archive
from segcore.acquisition.watch import NOBODY, Listener
from segcore.datasets import Dataset, Pair, build_dataset
from segcore.download import INVENTORY, download
from segcore.errors import InputError
from tests.acquisition.test_archives import tar_bytes, zip_bytes
from tests.acquisition.test_transfers import Heard
from tests.datasets.miniatures import build_miniature
from tests.range_server import Served, range_server


class Toy(Dataset):
    """Two files per sample, written by ``acquire``; one of them may lie elsewhere."""

    home, licence = "https://example.org/toy", "CC0"

    def __init__(self, elsewhere: Path | None = None, forget: str = "") -> None:
        self.elsewhere, self.forget = elsewhere, forget

    def acquire(self, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        for pairs in self.pairs(raw).values():
            for path in (path for pair in pairs for path in (pair.image, pair.label)):
                if not path.match(self.forget or "nothing"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(path.name.encode() * 3)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return {
            split: [Pair(split, (self.elsewhere or raw) / f"{split}.jpg", raw / f"l/{split}.png")]
            for split in ("train", "val")
        }


def line(split: str, path: str, content: bytes) -> list[str | int]:
    return [split, path, len(content), hashlib.sha256(content).hexdigest()]


def test_inventory_lists_every_file(tmp_path):
    inventory = download(Toy(), tmp_path / "raw", tmp_path / "drop")
    assert inventory == json.loads((tmp_path / "raw" / INVENTORY).read_text())
    assert inventory == {
        "home": "https://example.org/toy",
        "licence": "CC0",
        "files": [
            line("train", "train.jpg", b"train.jpgtrain.jpgtrain.jpg"),
            line("train", "l/train.png", b"train.pngtrain.pngtrain.png"),
            line("val", "val.jpg", b"val.jpgval.jpgval.jpg"),
            line("val", "l/val.png", b"val.pngval.pngval.png"),
        ],
    }


def test_two_places_give_the_same_inventory(tmp_path):
    for name in ("one", "two/deeper"):
        download(Toy(), tmp_path / name, tmp_path)
    inventories = [(tmp_path / name / INVENTORY).read_bytes() for name in ("one", "two/deeper")]
    assert inventories[0] == inventories[1]


def test_files_that_lie_elsewhere_keep_their_path(tmp_path):
    files = download(Toy(tmp_path / "own"), tmp_path / "raw", tmp_path)["files"]
    assert [path for _, path, *_ in files][:2] == [str(tmp_path / "own/train.jpg"), "l/train.png"]


@pytest.mark.parametrize("forget", ["val.jpg", "train.png"])
def test_a_missing_file_is_told_and_leaves_no_inventory(tmp_path, forget):
    download(Toy(), tmp_path / "raw", tmp_path)
    (path,) = (tmp_path / "raw").rglob(forget)
    path.unlink()
    split = forget.split(".")[0]
    with pytest.raises(InputError, match=rf"complete them\n  {path} of split {split}: No such"):
        download(Toy(forget=forget), tmp_path / "raw", tmp_path)
    assert not (tmp_path / "raw" / INVENTORY).exists(), "the old inventory would be believed"


def test_all_missing_files_are_told_at_once(tmp_path):
    download(Toy(), tmp_path / "raw", tmp_path)
    for path in list((tmp_path / "raw").rglob("train.*")):
        path.unlink()
    with pytest.raises(InputError, match=r"2 raw file\(s\) .*\n .*train\.jpg .*\n .*train\.png "):
        download(Toy(forget="train.*"), tmp_path / "raw", tmp_path)


def test_whatever_keeps_a_file_from_being_read_is_told(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    download(Toy(), raw, tmp_path)
    for name in "train.jpg", "val.jpg", "l/val.png":
        (raw / name).unlink()
    (raw / "train.jpg").symlink_to("train.jpg")
    (raw / "val.jpg").mkdir()
    monkeypatch.setattr(segcore.download, "sha256_of", refusing(raw / "l/train.png"))
    with pytest.raises(InputError) as raised:
        download(Toy(forget="*"), raw, tmp_path)
    assert str(raised.value).splitlines() == [
        "4 raw file(s) are missing or cannot be read; complete them",
        f"  {raw}/train.jpg of split train: Too many levels of symbolic links",
        f"  {raw}/l/train.png of split train: Permission denied",
        f"  {raw}/val.jpg of split val: Is a directory",
        f"  {raw}/l/val.png of split val: No such file or directory",
    ]


def refusing(refused: Path) -> Any:
    plain = segcore.download.sha256_of

    def digest(path: Path) -> str:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    return digest


def test_a_name_that_no_inventory_can_hold_is_told(tmp_path):
    odd = tmp_path / "caf\udce9"
    odd.mkdir()
    for split in ("train", "val"):
        (odd / f"{split}.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"caf\\udce9/train.jpg' of split train: .* is no UTF-8\n"):
        download(Toy(odd, forget="*.jpg"), tmp_path / "raw", tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; the error is one of those of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["shapes", "camvid", "coco_voc21"])
def test_a_full_disk_is_told_whoever_writes(tmp_path, name):
    options = {"train": 2, "val": 1} if name == "shapes" else {}
    dataset = build_dataset(name, options)
    if name != "shapes":
        expected = build_miniature(name, tmp_path)
        for attribute, value in expected.attributes.items():
            setattr(dataset, attribute, value)
    raw, drop = tmp_path / "raw", tmp_path / "unpacked"
    with largest_file(150), pytest.raises(InputError, match=f"^no space left below {raw}; make"):
        download(dataset, raw, drop)
    assert not (raw / INVENTORY).exists()
    assert not [path for path in raw.rglob("*.part") if path.is_file()]
    assert download(dataset, raw, drop)["files"]


def test_a_label_that_finds_no_room_is_told(tmp_path, monkeypatch):
    """The archives have come; what fails is what is made of them."""
    expected, dataset = build_miniature("coco_voc21", tmp_path), build_dataset("coco_voc21", {})
    dataset.annotated_images = expected.attributes["annotated_images"]
    raw = tmp_path / "raw"
    dataset.acquire(raw, tmp_path / "unpacked")
    for path in raw.glob("labels/*/*.png"):
        path.unlink()
    with largest_file(50), pytest.raises(InputError, match=f"^no space left below {raw}; make"):
        download(dataset, raw, tmp_path / "unpacked")


@pytest.mark.parametrize("name", ["shapes", "camvid"])
def test_a_folder_that_cannot_be_is_told(tmp_path, name):
    build_miniature("camvid", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/raw/inventory.json cannot be written: Not a dir"):
        download(build_dataset(name, {}), tmp_path / "file/raw", tmp_path / "unpacked")


def test_archives_are_brought_once(tmp_path, monkeypatch):
    calls, plain = list[Listener](), Published.acquire

    def counted(self: Published, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        calls.append(listener)
        plain(self, raw, drop, listener)

    fill(tmp_path / "drop", PACKED)
    monkeypatch.setattr(Published, "acquire", counted)
    heard = Heard()
    download(Published("http://nowhere"), tmp_path / "raw", tmp_path / "drop", heard)
    assert calls == [heard]
    assert sorted(heard.lines) == ["images.tar.gz: unpacking", "labels.zip: unpacking"]


def test_a_dataset_that_cannot_be_had_leaves_no_inventory(tmp_path, monkeypatch):
    download(Toy(), tmp_path / "raw", tmp_path)

    def refuse(self: Toy, *_: object) -> None:
        raise InputError("put the archive there")

    monkeypatch.setattr(Toy, "acquire", refuse)
    with pytest.raises(InputError, match="put the archive there"):
        download(Toy(), tmp_path / "raw", tmp_path)
    assert not (tmp_path / "raw" / INVENTORY).exists()


def test_many_files_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(segcore.download, "FILES_AT_ONCE", 1)
    one_by_one = download(Toy(), tmp_path / "raw", tmp_path)
    monkeypatch.undo()
    assert download(Toy(), tmp_path / "raw", tmp_path) == one_by_one


class Published(Dataset):
    """Two archives, as a dataset file states them; nothing else is needed."""

    home, licence = "https://example.org/published", "CC BY 4.0"

    def __init__(self, url: str) -> None:
        self.archives = (
            Archive("images.tar.gz", (f"{url}/images.tar.gz",), trees=("set/images",)),
            Archive("labels.zip", (f"{url}/labels.zip",), trees=("set/labels",)),
        )

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        names = (path.stem for path in sorted((raw / "set/images").iterdir()))
        return {
            "train": [
                Pair(n, raw / f"set/images/{n}.jpg", raw / f"set/labels/{n}.png") for n in names
            ]
        }


IMAGES = {f"set/images/{n}.jpg": b"image %d" % n * 9 for n in range(3)}
LABELS = {f"set/labels/{n}.png": b"label %d" % n for n in range(3)}
PACKED = {"images.tar.gz": tar_bytes(IMAGES, "w:gz"), "labels.zip": zip_bytes(LABELS)}


@pytest.fixture
def address() -> Iterator[str]:
    with range_server() as server:
        server.files |= {f"/{name}": Served(content) for name, content in PACKED.items()}
        server.files["/images.tar.gz"].breaks = [50, 30]
        yield server.url


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "dropped",
    [{}, PACKED, IMAGES | LABELS, IMAGES, IMAGES | {"labels.zip": PACKED["labels.zip"]}],
    ids=["network", "packed", "unpacked", "images unpacked", "mixed"],
)
def test_every_way_gives_the_same_inventory(tmp_path, address, dropped, monkeypatch):
    monkeypatch.setattr("segcore.acquisition.transfers.PAUSE", 0.01)
    fill(tmp_path / "drop", dropped)
    inventory = download(Published(address), tmp_path / "raw", tmp_path / "drop")
    expected = [
        line("train", name, content)
        for n in range(3)
        for name, content in [*IMAGES.items(), *LABELS.items()]
        if f"/{n}." in name
    ]
    assert inventory["files"] == expected
    assert Published(address).acquire(tmp_path / "raw", tmp_path / "drop") is None


def test_without_network_the_addresses_and_the_drop_folder_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("segcore.acquisition.transfers.PAUSE", 0.001)
    with pytest.raises(InputError) as raised:
        download(Published("http://data.example.org"), tmp_path / "raw", tmp_path / "drop")
    for part in (
        "http://data.example.org/images.tar.gz",
        "http://data.example.org/labels.zip",
        "https://example.org/published",
        str(tmp_path / "drop"),
    ):
        assert part in str(raised.value)
    assert not (tmp_path / "raw" / INVENTORY).exists()


# --- what a person sees --------------------------------------------------------------------------


def test_progress_in_megabytes(capsys):
    with ExitStack() as stack:
        shown = Shown("download toy", stack)
        for count, total in (0, 9_600_000), (2_400_000, 9_600_000), (700_000, 19_600_000):
            shown.advance(count, total)
        shown.advance(-3_100_000, 19_600_000)
        shown.advance(19_600_000, 19_600_000)
        shown.say("a.zip: unpacking")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "a.zip: unpacking"
    assert said[1].startswith("download toy: 20/20 MB (")
    assert "MB/s" in said[1]


def test_nothing_to_fetch_needs_no_bar(capsys):
    with ExitStack() as stack:
        Shown("download toy", stack).say("waiting")
    assert capsys.readouterr().out == "waiting\n"
