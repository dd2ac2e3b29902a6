"""A raw image and its label -> RGB pixels and train ids, or what is wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from segcore.datasets import Dataset, Pair
from segcore.decoding import UNDECODABLE
from segcore.errors import InputError
from segcore.preparation import images
from segcore.preparation.images import LabelMap, Picture, decoded, pixel_limit
from segcore.tables import Treatment

TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF and PPM are read"


def read_pair(dataset: Dataset, pair: Pair, table: Treatment) -> tuple[Picture, LabelMap]:
    """One sample, checked. Raises InputError that names the file and what is wrong with it."""
    huge = bool(table.tile or table.max_side)
    with pixel_limit(images.MOST_PIXELS_CUT if huge else images.MOST_PIXELS):
        with _blamed_on(pair.image, huge):
            picture = decoded(pair.image.read_bytes())
        with _blamed_on(pair.label, huge):
            labels = dataset.read_labels(pair.label)
    if picture.pixels.shape[:2] != labels.shape:
        (height, width), shape = labels.shape, picture.pixels.shape
        raise InputError(
            f"{pair.image} is {shape[1]}x{shape[0]} pixels"
            f" but its labels {pair.label} are {width}x{height}"
        )
    return picture, labels


@contextmanager
def _blamed_on(path: Path, huge: bool) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except UnidentifiedImageError:
        raise InputError(f"{path} ({path.stat().st_size} bytes) is no image; {KINDS}") from None
    except TOO_LARGE:
        remedy = "make it smaller" if huge else "set max_side or tile to use it"
        most = f"more than {Image.MAX_IMAGE_PIXELS} pixels"
        raise InputError(f"{path} has {most}; {remedy}") from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        reason = str(error).removeprefix(f"{UNDECODABLE}: ") or type(error).__name__
        raise InputError(f"{path} cannot be decoded: {reason}") from None
