"""The publisher's two archives: frames in a folder, painted labels without one.

One label holds pixels in a colour of no class, as the real one of that name does.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.datasets.miniatures import VOID, Expected, pack, resource_fork, write, write_photo

STEMS = {
    "train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_07920", "0016E5_08190"],
    "val": ["0016E5_07959", "0016E5_08159"],
    "test": ["0001TP_008550", "Seq05VD_f02610"],
}
COLOURS = [
    *((128, 128, 128), (64, 192, 0), (0, 0, 64), (192, 0, 64), (128, 128, 192), (192, 192, 0)),
    *((0, 64, 64), (64, 64, 128), (128, 64, 64), (64, 128, 64), (192, 0, 192)),
]
"""One colour of each class, in the order of train ids: sky, a wall, a cone, a lane marking ..."""


def build(folder: Path) -> Expected:
    images, labels = "701_StillsRaw_full", "LabeledApproved_full"
    tree, samples = folder / "unpacked", dict[str, dict[str, np.ndarray]]()
    for split, stems in STEMS.items():
        samples[split] = {}
        for number, stem in enumerate(stems):
            ids = np.random.default_rng(number).integers(0, 12, (36, 48))
            painted = np.array([*COLOURS, (0, 0, 0)], np.uint8)[ids]
            ids[ids == 11] = VOID
            if stem == "Seq05VD_f02610":
                painted[3, 4:9], ids[3, 4:9] = (1, 2, 3), VOID
            write_photo(tree / images / f"{stem}.png", 36, 48, seed=number)
            (tree / labels).mkdir(exist_ok=True)
            Image.fromarray(painted).save(tree / labels / f"{stem}_L.png")
            resource_fork(tree / labels / f"{stem}_L.png")
            resource_fork(tree / images / f"{stem}.png")
            samples[split][stem] = ids
    write(tree / images / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    pack(folder / f"packed/{images}.zip", tree, images)
    names = [path.name for path in sorted((tree / labels).iterdir())]
    pack(folder / f"packed/{labels}.zip", tree / labels, *names)
    return Expected(samples, options={"unknown_colour": "ignore"})
