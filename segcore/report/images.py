"""The pictures of a page, within a budget of bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from segcore.report.rows import RowReport

IMAGE_BYTES = 3_000_000
"""What the images of all rows may take in a page, as base64: it keeps a page below 5 MB."""
SHEET_BYTES = 150_000
"""What the samples of one dataset may take, before base64."""

Listed = dict[str, dict[str, Any]]
"""By image: ``height``, ``width``, ``input``, ``label``, and ``predicted`` by row."""


def listed_images(boards: Mapping[str, Sequence[RowReport]]) -> dict[str, Listed]:
    """Per board the images to show: the first of every row, as many as the budget allows."""
    most = max(len(row.images) for rows in boards.values() for row in rows)
    for count in range(most, 0, -1):
        found = {board: _first(rows, count) for board, rows in boards.items()}
        if sum(map(_size, found.values())) <= IMAGE_BYTES:
            return found
    return {board: {} for board in boards}


def _first(rows: Sequence[RowReport], count: int) -> Listed:
    listed: Listed = {}
    for image in (image for row in rows for image in row.images[:count]):
        shared = {key: image[key] for key in ("height", "width", "input", "label")}
        listed.setdefault(image["id"], shared | {"predicted": {}})
    for row in rows:
        for image in row.images:
            if image["id"] in listed:
                listed[image["id"]]["predicted"][row.name] = image["predicted"]
    return listed


def _size(listed: Listed) -> int:
    shared = sum(len(image["input"]) + len(image["label"]) for image in listed.values())
    return shared + sum(
        len(uri) for image in listed.values() for uri in image["predicted"].values()
    )


def picture(path: Path, most_bytes: int) -> str:
    """An image as a data URI (WebP), made smaller and coarser only until it fits."""
    with Image.open(path) as image:
        full = image.convert("RGB")
    data = b""
    for width in (1440, 1080, 720, 480, 240):
        small = full.copy()
        small.thumbnail((width, full.height), Image.Resampling.LANCZOS)
        for quality in (85, 60):
            small.save(file := io.BytesIO(), format="WEBP", quality=quality)
            data = file.getvalue()
            if len(data) <= most_bytes:
                return _data_uri(data)
    return _data_uri(data)


def _data_uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
