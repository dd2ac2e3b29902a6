"""Frames of a video file, one by one, and a video file of frames."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from segcore.decoding import Pixels
from segcore.errors import InputError

SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv"}
USUAL_RATE = 25.0
"""Frames per second, where a file says nothing."""


class Video(NamedTuple):
    """``length`` is in frames, as the file says; one that is cut short has fewer."""

    length: int
    rate: float
    frames: Iterator[Pixels]


@contextmanager
def opened_video(path: Path) -> Iterator[Video]:
    """Raises InputError where OpenCV finds no frame in the file."""
    capture = cv2.VideoCapture(str(path))
    try:
        found, first = capture.read()
        if not found:
            raise InputError(f"{path} cannot be read as a video; convert it to H.264 in MP4")
        length, rate = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        known = math.isfinite(rate) and 0 < rate <= 1000
        yield Video(max(int(length), 1), rate if known else USUAL_RATE, _frames(capture, first))
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, frame: np.ndarray) -> Iterator[Pixels]:
    found = True
    while found:
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        found, frame = capture.read()


@contextmanager
def written_video(path: Path, rate: float) -> Iterator[Callable[[UInt8[Tensor, "3 h w"]], None]]:
    """Takes RGB pictures of one size, at least one, as MPEG-4; the ``.mp4`` is whole or absent.

    Raises InputError where this OpenCV cannot write such a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.part.mp4")  # OpenCV goes by the suffix
    writers = list[cv2.VideoWriter]()

    def write(picture: Tensor) -> None:
        if not writers:
            size = picture.shape[2], picture.shape[1]
            writers.append(_writer(aside, path, rate, size))
        writers[0].write(cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR))

    try:
        yield write
        writers[0].release()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _writer(aside: Path, path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    writer = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():  # each picture would be lost, and nothing said
        raise InputError(
            f"{path} cannot be written: this OpenCV has no MPEG-4 encoder, or the folder takes no "
            "files; install opencv-python-headless, or label the frames as images"
        )
    return writer
