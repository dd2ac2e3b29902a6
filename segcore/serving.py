"""What a server does with images that a stranger sent: open them within limits, label them.

A row is one image in one of two forms. ``image``, the bytes of a JPEG or PNG file or their base64,
is answered with ``labels`` and ``overlay``, the bytes of PNG files. ``pixels``, uint8 [h, w, 3] in
RGB, an array or lists, is answered with ``label_map``, uint8 [h, w].
"""

import base64
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from segcore.decoding import Pixels
from segcore.errors import InputError
from segcore.inference import predictor, resized_sides
from segcore.pictures import label_image, overlay
from segcore.tables import TestTime
from segcore.types import ClassTable

Row = Mapping[str, Any]
Look = Callable[[Tensor], Tensor]

WHOLE = TestTime()
"""The whole image, at its own size."""

MOST_PIXELS = 1 << 24
"""Of all files of one request together: one of 4096x4096, eight of 1024x2048."""

MOST_SCANS = 100
"""Of a progressive JPEG. Ten are usual; each of thousands costs a pass over the whole image."""

FORMS = "image (the bytes of a JPEG or PNG file) and pixels (uint8 [h, w, 3], RGB)"

START_OF_SCAN = b"\xff\xda"


def answer(
    network: nn.Module, classes: ClassTable, rows: Sequence[Row], how: TestTime = WHOLE
) -> list[dict[str, Any]]:
    """An answer for each row, one by one: memory does not grow with their number. Images are
    looked at as ``how`` says.

    Raises InputError, which names the row by its place, before any image is decoded where a
    header says that it is too large, and where one is no image, damaged or too small.
    """
    found = [_image_of(row, place) for place, row in enumerate(rows)]
    if not found:
        raise InputError(f"the request holds no image; a row has one of {FORMS}")
    check_sizes(found)
    look = partial(_look, network, classes, how)
    return [_answer(look, classes, image, place) for place, image in enumerate(found)]


def _image_of(row: Row, place: int) -> bytes | list[Any] | np.ndarray:
    file, array = row.get("image"), row.get("pixels")
    file = file.encode() if isinstance(file, str) else file
    given = [file] if isinstance(file, bytes) else []
    given += [array] if isinstance(array, list | np.ndarray) else []
    if len(given) != 1:
        raise InputError(f"image {place} needs exactly one of {FORMS}")
    return _from_base64(file) if isinstance(file, bytes) and file.isascii() else given[0]


def _from_base64(text: bytes) -> bytes:
    """MLflow decodes it in some of its JSON forms, not in all. No JPEG or PNG is ASCII."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return text


def check_sizes(images: Sequence[Any]) -> None:
    """Nothing is decoded before its header says that it is small enough: a picture of a single
    colour packs a thousand to one, so its bytes say little about the memory that it takes."""
    pixels = 0
    for place, image in enumerate(images):
        if not isinstance(image, bytes):
            continue
        width, height = _size_of(image, place)
        pixels += width * height
        if pixels > MOST_PIXELS:
            raise InputError(
                f"image {place} is {width}x{height}: a request holds at most {MOST_PIXELS} pixels "
                f"over all its files, and with this one it has {pixels}; send a smaller one, or "
                "several requests"
            )


def _size_of(content: bytes, place: int) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            size, form = image.size, image.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise InputError(f"image {place} ({len(content)} bytes) is no JPEG or PNG file") from None
    if form != "PNG" and content.count(START_OF_SCAN) > MOST_SCANS:
        raise InputError(f"image {place} is a JPEG of more than {MOST_SCANS} scans; save it anew")
    return size


def _answer(look: Look, classes: ClassTable, given: Any, place: int) -> dict[str, Any]:
    is_file = isinstance(given, bytes)
    pixels = _decoded(given, place) if is_file else _checked(given, place)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    try:
        labels = look(image)
    except InputError as error:
        raise InputError(f"image {place}: {error}") from None
    if not is_file:
        return {"label_map": labels.numpy()}
    painted = overlay(image, labels, classes)
    return {"labels": labels_png(labels, classes), "overlay": _png(painted)}


def _look(
    network: nn.Module, classes: ClassTable, how: TestTime, image: UInt8[Tensor, "3 h w"]
) -> UInt8[Tensor, "h w"]:
    height, width = image.shape[1:]
    tall, wide = resized_sides((height, width), how.resize)
    if tall * wide > MOST_PIXELS:  # a narrow image becomes endless at a given short side
        raise InputError(
            f"{height}x{width} pixels, which the model looks at as {tall}x{wide}: at most "
            f"{MOST_PIXELS} pixels; cut it"
        )
    return predictor(how, classes.mirror)(network, image[None])[0].cpu()


def _decoded(content: bytes, place: int) -> Pixels:
    """The same pixels as ``segcore.decoding.decode``, which lists the chunks of a PNG; a hostile
    one has a million of them, and a listed one takes many times its bytes."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"image {place} is damaged: it cannot be decoded")
    return np.asarray(pixels, np.uint8)


def _checked(array: Any, place: int) -> Pixels:
    """As uint8; lists, as JSON brings them, must hold whole numbers from 0 to 255."""
    try:
        image = np.asarray(array)
    except ValueError:  # rows of different lengths
        image = np.empty(0)
    whole = image.dtype.kind == "i" and not isinstance(array, np.ndarray)
    if whole and image.size and image.min() >= 0 and image.max() <= 255:
        image = image.astype(np.uint8)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2:] != (3,):
        found = f"{image.dtype} {list(image.shape)}"
        raise InputError(f"image {place}: pixels must be uint8 [h, w, 3], RGB; these are {found}")
    return image


def labels_png(labels: UInt8[Tensor, "h w"], classes: ClassTable) -> bytes:
    """An index image: a pixel's value is its class, the palette holds the class colours."""
    label_image(labels, classes).save(file := io.BytesIO(), format="PNG")
    return file.getvalue()


def _png(picture: UInt8[Tensor, "3 h w"]) -> bytes:
    pixels = cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels)[1].tobytes()
