"""PASCAL Context in small, for both of its forms."""

import json
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.datasets.miniatures import (
    VOID,
    Expected,
    pack,
    resource_fork,
    write,
    write_lines,
    write_photo,
)

LISTS = {"train": ["2008_000008", "2008_000002", "2010_006086"], "val": ["2008_000003"]}
UNKNOWN = 431
FACTS = Path(__file__).parent / "facts"


def build_context(folder: Path, form: int) -> Expected:
    """Two archives; the lists of VOC's segmentation task, a trap, name fewer images."""
    tree, samples = folder / "unpacked", dict[str, dict[str, np.ndarray]]()
    voc, outer = tree / "VOCdevkit/VOC2010", tree / "trainval"
    facts = json.loads((FACTS / f"pascal_context_{form}.json").read_text())
    train_id_of = {int(raw): train for raw, train in facts["raw_to_train"].items()}
    for split, stems in LISTS.items():
        for number, stem in enumerate(stems):
            seed, grey = [number, form, split == "val"], number == 1
            write_photo(
                voc / f"JPEGImages/{stem}.jpg", 36, 44 + number, mode="L" if grey else "RGB"
            )
            raw = np.random.default_rng(seed).integers(1, 460, (36, 44 + number))
            raw[:4], raw[4:8] = 445, np.arange(1, 45 + number)
            if number == 2:
                raw[:] = UNKNOWN
            write_label_map(outer / f"{stem}.mat", raw)
            default = facts["raw_default"]
            mapped = [[train_id_of.get(value, default) for value in row] for row in raw.tolist()]
            samples.setdefault(split, {})[stem] = np.array(mapped)
        samples[split] = dict(sorted(samples[split].items()))
        write_lines(voc / f"ImageSets/Main/{split}.txt", stems)
        write_lines(voc / f"ImageSets/Main/cat_{split}.txt", [f"{stem} -1" for stem in stems])
        write_lines(voc / f"ImageSets/Segmentation/{split}.txt", stems[:1])
    resource_fork(outer / "2008_000002.mat")
    write(outer / "labels.txt", "1: accordion\n2: aeroplane\n")
    pack(folder / "packed/VOCtrainval_03-May-2010.tar", tree, "VOCdevkit")
    pack(folder / "packed/trainval.tar.gz", tree, "trainval")
    assert (samples["train"]["2010_006086"] == (VOID if form == 59 else 0)).all()
    return Expected(samples)


def write_label_map(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": raw.astype(np.uint16)}, do_compression=True)
