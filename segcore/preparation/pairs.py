"""A raw image and its label -> RGB pixels and train ids, or what is wrong with them."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segcore.datasets import Dataset, Pair
from segcore.errors import InputError
from segcore.preparation import images
from segcore.preparation.images import LabelMap, Picture, decoded, pixel_limit
from segcore.tables import Treatment

BROKEN = (OSError, EOFError, SyntaxError, ValueError, RuntimeError, struct.error, zlib.error)
"""What decoders raise on files that are cut short or damaged."""
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_pair(dataset: Dataset, pair: Pair, table: Treatment) -> tuple[Picture, LabelMap]:
    """One sample, checked. Raises InputError that names the file and what is wrong with it."""
    with pixel_limit(huge=bool(table.tile or table.max_side)):
        with _blamed_on(pair.image):
            picture = decoded(pair.image.read_bytes())
        with _blamed_on(pair.label):
            labels = dataset.read_labels(pair.label)
    if picture.pixels.shape[:2] != labels.shape:
        (height, width), shape = labels.shape, picture.pixels.shape
        raise InputError(
            f"{pair.image} is {shape[1]}x{shape[0]} pixels"
            f" but its labels {pair.label} are {width}x{height}"
        )
    return picture, labels


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} ({path.stat().st_size} bytes) is no image") from None
    except TOO_LARGE:
        most = f"{path} has more than {images.MOST_PIXELS} pixels"
        raise InputError(f"{most}; set max_side or tile to use it") from None
    except BROKEN as error:
        raise InputError(f"{path} cannot be decoded: {error}") from None
