"""``coco_voc21``: COCO 2017 in the 20 classes of PASCAL VOC and background, to train on first.

Lin et al.: Microsoft COCO: common objects in context, ECCV 2014. Which images are kept, and which
object a pixel of two belongs to, is the rule of PyTorch-Encoding.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from segcore.acquisition.archives import Archive
from segcore.acquisition.watch import NOBODY, Listener
from segcore.datasets import Dataset, Pair, read_class_table, read_stems
from segcore.errors import InputError
from segcore.files import written_whole
from segcore.formats import coco
from segcore.formats.coco import IMAGES_2017, Annotated, draw_instance, read_instances

__all__ = ["COCOVOC21"]

ANNOTATIONS = Archive(
    "annotations_trainval2017.zip",
    urls=("http://images.cocodataset.org/annotations/annotations_trainval2017.zip",),
    size=252907541,
    checksum="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    trees=("annotations",),
)
FEWEST_PIXELS = 1000
"""An image is kept where more pixels than these belong to one of the 20 classes."""


class COCOVOC21(Dataset):
    """Labels are drawn as ``labels/<split>/<name>.png`` of COCO's category ids, once for as long as
    the annotations stay; the lists ``train.txt`` and ``val.txt`` hold the images that are kept. How
    many are was never printed."""

    home = "https://cocodataset.org"
    licence = "annotations: CC BY 4.0; images: Flickr's terms of use"

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("coco_voc21")
        self.archives = (*IMAGES_2017, ANNOTATIONS)
        self.split_sizes = {}
        self.annotated_images = {"train": 118287, "val": 5000}
        """Before any is left out."""

    def acquire(self, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        super().acquire(raw, drop, listener)
        for split, count in self.annotated_images.items():
            path = raw / f"annotations/instances_{split}2017.json"
            if self._is_drawn(raw, split, newest(path)):
                continue
            listener.say(f"drawing the labels of {split}")
            images = read_instances(path, self.known - {0})
            if len(images) != count:
                raise InputError(f"{path} has {len(images)} images, not {count}; bring it again")
            self._draw_split(raw, split, path, images)

    def _is_drawn(self, raw: Path, split: str, since: int) -> bool:
        complete = raw / f"{split}.txt"
        if changed_at(complete) <= since:
            return False
        stems = complete.read_text().split()
        labels = (raw / f"labels/{split}/{stem}.png" for stem in stems)
        return all(changed_at(path) > since for path in labels)

    def _draw_split(self, raw: Path, split: str, source: Path, images: list[Annotated]) -> None:
        """The list comes last: where there is none, a killed run left labels to go on from."""
        stems, complete, since = list[str](), raw / f"{split}.txt", newest(source)
        complete.unlink(missing_ok=True)
        for image in images:
            stem = Path(image.file_name).stem
            target = raw / "labels" / split / f"{stem}.png"
            if changed_at(target) > since or self._draw(target, source, image):
                stems.append(stem)
        with written_whole(complete) as aside:
            aside.write_text("".join(f"{stem}\n" for stem in stems))

    def _draw(self, target: Path, source: Path, image: Annotated) -> bool:
        """Draws the label, first objects on top; whether enough of it is foreground."""
        label = np.zeros((image.height, image.width), np.uint8)
        for category, segmentation in image.instances:
            try:
                mask = draw_instance(segmentation, image.height, image.width)
            except ValueError as error:
                raise InputError(f"{source}: {image.file_name}: {error}; bring it again") from None
            label[mask & (label == 0)] = category
        if np.count_nonzero(label) <= FEWEST_PIXELS:
            target.unlink(missing_ok=True)
            return False
        with written_whole(target) as aside:
            Image.fromarray(label).save(aside, "PNG")
        return True

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return {
            split: [
                Pair(stem, raw / f"{split}2017/{stem}.jpg", raw / f"labels/{split}/{stem}.png")
                for stem in read_stems(raw / f"{split}.txt")
            ]
            for split in self.annotated_images
        }


def newest(source: Path) -> int:
    """When the annotations or what draws them last changed; labels from before are no good."""
    return max(changed_at(path) for path in (source, Path(__file__), Path(coco.__file__)))


def changed_at(path: Path) -> int:
    """Nanoseconds; 0 where nothing is."""
    return path.stat().st_mtime_ns if path.is_file() else 0
