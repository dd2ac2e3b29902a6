"""``pascal_context_59``: PASCAL Context, 59 frequent things and stuffs; the rest is ignored.

Networks score some 5 points apart on the forms of 59 and 60 classes: say which one was used.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from segcore.datasets import Dataset, Pair, read_class_table, read_stems
from segcore.formats import pascal_context

__all__ = ["PascalContext59"]


class PascalContext59(Dataset):
    """Every pixel of the other 400 classes, or of none, is ignored."""

    home, licence = pascal_context.HOME, pascal_context.LICENCE
    archives, split_sizes = pascal_context.ARCHIVES, pascal_context.SPLIT_SIZES

    def __init__(self) -> None:
        self.classes, self.train_ids, self.known = read_class_table("pascal_context_59")

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return {
            split: [Pair(*pascal_context.files_of(raw, stem)) for stem in sorted(read_stems(path))]
            for split, path in pascal_context.lists_of(raw).items()
        }

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        return self.look_up(str(path), pascal_context.read_label_map(path))
