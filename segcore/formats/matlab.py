"""Label maps in MATLAB files (up to version 7, which scipy reads)."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer
from scipy.io import loadmat

from segcore.errors import InputError


def read_matlab(path: Path, *names: str) -> dict[str, Any]:
    """The variables ``names``, as far as the file holds them; the first one must be there.

    Raises InputError that names the file where it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    try:
        found = loadmat(io.BytesIO(content), variable_names=names)
    except Exception as error:  # scipy raises nearly anything on a damaged file
        size = f"{len(content)} bytes"
        raise InputError(f"{path} ({size}) is no whole MATLAB file: {error}") from None
    if names[0] not in found:
        raise InputError(f"{path} holds no variable {names[0]}; it is not a file of this dataset")
    return found


def label_map(path: Path, value: Any) -> Integer[np.ndarray, "h w"]:
    """``value``, read from ``path``, as raw label ids; MATLAB may have stored them as doubles."""
    raw = np.asarray(value)
    if raw.ndim != 2 or raw.dtype.kind not in "uif" or not raw.size:
        raise InputError(f"{path}: a label map was expected, this is {raw.dtype} {raw.shape}")
    if raw.dtype.kind != "f":
        return raw
    if not np.isfinite(raw).all() or (raw != np.floor(raw)).any():
        raise InputError(f"{path}: label ids must be whole numbers")
    return raw.astype(np.int64)
