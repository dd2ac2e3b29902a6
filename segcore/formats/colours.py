"""Labels that were painted: RGB colours -> train ids."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from segcore.errors import InputError
from segcore.formats.image_files import opened_label
from segcore.types import IGNORE

Colour = tuple[int, int, int]
SHOWN_COLOURS = 5


def pack(colours: Integer[np.ndarray, "*any 3"]) -> Integer[np.ndarray, "*any"]:
    """One number per colour, 24 bits."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def unpack(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


@dataclass(frozen=True)
class ColourTable:
    """What each colour of a label image means. ``codes`` are packed colours, ascending."""

    codes: Integer[np.ndarray, "n"]
    train_ids: UInt8[np.ndarray, "n"]

    @classmethod
    def of(cls, train_id_of: Mapping[int, int]) -> "ColourTable":
        codes = sorted(train_id_of)
        ids = [train_id_of[code] for code in codes]
        return cls(np.array(codes, np.int32), np.array(ids, np.uint8))

    def read(self, path: Path, stray: str, remedy: str) -> UInt8[np.ndarray, "h w"]:
        """The train ids of a painted label file.

        Colours of no class are ``IGNORE`` where ``stray`` is ``ignore``; where it is ``refuse``,
        InputError names the file, those colours with counts, and ``remedy``.
        """
        file = opened_label(path)
        if file.is_deep:
            bits = file.most.bit_length()
            raise InputError(f"{path}: colours of 8 bits were expected, these have {bits}")
        codes = pack(file.rgb())
        nearest = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        labels, unknown = self.train_ids[nearest], self.codes[nearest] != codes
        if not unknown.any():
            return labels
        if stray == "refuse":
            counts = Counter(codes[unknown].tolist())
            shown = counts.most_common(SHOWN_COLOURS)
            listed = ", ".join(f"{unpack(code)} ({count} pixels)" for code, count in shown)
            more = f" and {len(counts) - len(shown)} more" if len(counts) > len(shown) else ""
            raise InputError(f"{path}: colours of no class: {listed}{more}; {remedy}")
        labels[unknown] = IGNORE
        return labels
