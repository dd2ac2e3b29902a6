import hashlib
import json
from pathlib import Path

import pytest

from segcore.datasets import Dataset, Pair
from segcore.download import INVENTORY, download
from segcore.errors import InputError


class Toy(Dataset):
    """Two files per sample, written by ``acquire``; one of them may lie elsewhere."""

    home, licence = "https://example.org/toy", "CC0"

    def __init__(self, elsewhere: Path | None = None, forget: str = "") -> None:
        self.elsewhere, self.forget = elsewhere, forget

    def acquire(self, raw: Path, drop: Path) -> None:
        for pairs in self.pairs(raw).values():
            for path in (path for pair in pairs for path in (pair.image, pair.label)):
                if path.name != self.forget:
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
    with pytest.raises(InputError, match=rf"{path} is missing; complete .* of split {split}"):
        download(Toy(forget=forget), tmp_path / "raw", tmp_path)
    assert not (tmp_path / "raw" / INVENTORY).exists(), "the old inventory would be believed"


def test_a_dataset_that_cannot_be_had_leaves_no_inventory(tmp_path, monkeypatch):
    download(Toy(), tmp_path / "raw", tmp_path)

    def refuse(self: Toy, raw: Path, drop: Path) -> None:
        raise InputError("put the archive there")

    monkeypatch.setattr(Toy, "acquire", refuse)
    with pytest.raises(InputError, match="put the archive there"):
        download(Toy(), tmp_path / "raw", tmp_path)
    assert not (tmp_path / "raw" / INVENTORY).exists()
