"""``lip``: crops of single persons, 20 classes of clothes and body parts, left told from right.

Gong et al.: Look into person, CVPR 2017, arXiv 1703.05446.
"""

from pathlib import Path

from segcore.acquisition.archives import Archive
from segcore.datasets import Dataset, Pair, read_class_table, read_stems
from segcore.errors import InputError

__all__ = ["LIP"]


class LIP(Dataset):
    """Two archives that a person fetches by browser; each holds another archive.

    The folders ``train_images val_images train_segmentations val_segmentations`` may lie at the
    top or deeper; ``train_id.txt`` and ``val_id.txt`` name the samples where they are there.
    """

    home = (
        "https://lip.sysuhcp.com/overview.php, or the authors' folder https://drive.google.com"
        "/drive/folders/0BzvH3bSnp3E9QjVYZlhWSjltSWM?resourcekey=0-nkS8bDVjPs3bEw3UZW-omA"
    )
    licence = "none was found; the authors offer it for research"
    redistribution = False
    archives = (
        Archive(
            "TrainVal_images.zip",
            trees=("TrainVal_images", "train_images", "val_images", "train_id.txt", "val_id.txt"),
        ),
        Archive(
            "TrainVal_parsing_annotations.zip",
            trees=("TrainVal_parsing_annotations", "train_segmentations", "val_segmentations"),
        ),
    )

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("lip")
        self.split_sizes = {"train": 30462, "val": 10000}

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        found = dict[str, list[Pair]]()
        for split in self.split_sizes:
            images, labels = (self._find(raw, f"{split}_{k}") for k in ("images", "segmentations"))
            if lists := find_below(raw, f"{split}_id.txt"):
                stems = sorted(read_stems(lists[0]))
            else:
                stems = sorted(path.stem for path in images.glob("[!.]*.jpg"))
            found[split] = [
                Pair(stem, images / f"{stem}.jpg", labels / f"{stem}.png") for stem in stems
            ]
        return found

    def _find(self, raw: Path, folder: str) -> Path:
        if places := find_below(raw, folder):
            return places[0]
        names = " and ".join(archive.name for archive in self.archives)
        raise InputError(f"no folder {folder} below {raw}; it needs {names}, from {self.home}")


def find_below(raw: Path, name: str) -> list[Path]:
    """Where ``name`` lies at most three folders deep, the uppermost first."""
    return [path for depth in ("", "*/", "*/*/") for path in sorted(raw.glob(depth + name))]
