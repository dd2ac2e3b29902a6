"""One input pipeline in a process of its own, measured on command.

The first line of standard input describes the pipeline; each further line asks for an epoch and
is answered with samples per second, decoding and normalisation included.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.worker import answers

BATCH = 8
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Files(Dataset[Any]):
    """(image, label) files through a function; ``repeats`` times, for short lists."""

    def __init__(self, pairs: list[list[str]], repeats: int, load: Callable[..., Any]) -> None:
        self.pairs, self.load = pairs * repeats, load

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.load(*self.pairs[index])


def segcore_epochs(asked: dict[str, Any]) -> Callable[[], Iterator[int]]:
    from segcore.batches import RankSteps, TrainingStream, training_batches
    from segcore.decoded_cache import open_reader
    from segcore.transforms import Augmentation, normalise

    reader = open_reader(asked["shards"], "train", asked["cache"])
    stream = TrainingStream(reader, Augmentation(tuple(asked["crop"])), seed=0)
    steps = RankSteps(0, len(reader) * asked["repeats"] // BATCH, BATCH, 0, 1)
    batches = training_batches(stream, steps, loader_workers=asked["workers"])
    return lambda: (len(normalise(batch.images, channels_last=True)) for batch in batches)


def mmseg_epochs(asked: dict[str, Any]) -> Callable[[], Iterator[int]]:
    from benchmarks.parity import published

    published.load_registry()
    import cv2
    from mmcv.transforms import Compose  # pyright: ignore[reportMissingImports]
    from mmengine.dataset import pseudo_collate  # pyright: ignore[reportMissingImports]
    from mmseg.registry import MODELS, TRANSFORMS  # pyright: ignore[reportMissingImports]

    cv2.setNumThreads(0)
    crop, base = tuple(asked["crop"]), tuple(asked["size"])
    described = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations"},
        {"type": "RandomResize", "scale": base[::-1], "ratio_range": (0.5, 2), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": crop, "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    steps = Compose([TRANSFORMS.build(step) for step in described])
    filling = {"pad_val": 0, "seg_pad_val": 255, "size": crop}
    described = {"type": "SegDataPreProcessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True}
    finish = MODELS.build(described | filling)

    def load(image: str, labels: str) -> Any:
        paths = {"img_path": image, "seg_map_path": labels}
        return steps(paths | {"reduce_zero_label": False, "seg_fields": []})

    loader = _loader(asked, load, pseudo_collate)
    return lambda: (len(finish(batch, training=True)["inputs"]) for batch in loader)


def torchvision_epochs(asked: dict[str, Any]) -> Callable[[], Iterator[int]]:
    """Without the 75 % rule, which it does not have."""
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    image_type, mask_type = tv_tensors.Image, tv_tensors.Mask
    steps = v2.Compose(
        [
            v2.ScaleJitter(tuple(asked["size"]), (0.5, 2.0), antialias=False),
            v2.RandomCrop(asked["crop"], pad_if_needed=True, fill={image_type: 0, mask_type: 255}),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(),
            v2.ToDtype({image_type: torch.float32, "others": None}, scale=True),
            v2.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
        ]
    )

    def load(image: str, labels: str) -> Any:
        pixels = image_type(decode_image(image, ImageReadMode.RGB))
        done, mask = steps(pixels, mask_type(decode_image(labels)[0]))
        return done.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)

    loader = _loader(asked, load, None)
    return lambda: (len(images) for images, _ in loader)


def _loader(asked: dict[str, Any], load: Callable[..., Any], collate: Any) -> DataLoader[Any]:
    workers = asked["workers"]
    return DataLoader(
        Files(asked["files"], asked["repeats"], load),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )


PIPELINES = {
    "segcore": segcore_epochs,
    "mmseg": mmseg_epochs,
    "torchvision": torchvision_epochs,
}


def main() -> None:
    torch.set_num_threads(1)
    with answers() as answer:
        asked = json.loads(sys.stdin.readline())
        # glibc keeps pieces as large as it has seen freed; in a training a network's tensors are.
        torch.empty(31 << 20, dtype=torch.uint8).fill_(0)
        epoch = PIPELINES[asked["library"]](asked)
        for _ in sys.stdin:
            begun = time.perf_counter()
            seen = sum(epoch())
            answer({"value": seen / (time.perf_counter() - begun)})


if __name__ == "__main__":
    main()
