"""A user's own files: which of them are images, and how they are divided into splits."""

import hashlib
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

from annotated_types import Gt, Lt
from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError

from segcore.errors import InputError

Strings = dict[StrictStr, StrictStr]
WILDCARDS = {"{stem}": "(?P<stem>.+)", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
SPLITS = "{val: 0.2, seed: 0} or {train: train.txt, val: val.txt}"


def refuse(option: str, reason: str) -> NoReturn:
    raise InputError(f"dataset folder: {option}: {reason}")


def checked(option: str, value: Any, kind: Any, example: str) -> Any:
    """``value`` as ``kind``, or an InputError that shows an example."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        refuse(option, f"{value!r} does not fit; an example: {example}")


def find_splits(root: Path, images: Any, split: Any) -> dict[str, dict[str, Path]]:
    """The images of every split by stem; none may be in two of them."""
    images = checked("images", images, StrictStr | Strings, '"photos/{stem}.jpg"')
    if isinstance(images, dict) == bool(split):
        refuse("split", "needed with one pattern of images, and only then; or a pattern per split")
    if isinstance(images, dict):
        found = {name: match(root, pattern, name) for name, pattern in images.items()}
    elif isinstance(split, dict) and all(isinstance(value, str) for value in split.values()):
        found = {name: listed(root, images, name, root / path) for name, path in split.items()}
    else:
        found = divide(match(root, images, ""), split)
    for path, count in Counter(path for part in found.values() for path in part.values()).items():
        if count > 1:
            refuse("split", f"{path} is in {count} of {', '.join(found)}; keep it in one")
    return found


def match(root: Path, pattern: str, split: str) -> dict[str, Path]:
    """The files that fit a pattern, by stem; hidden files are passed over."""
    parts = pattern.replace("{split}", split).split("/")
    fixed = next((n for n, part in enumerate(parts) if re.search(r"[*?{]", part)), len(parts) - 1)
    folder, rest = root.joinpath(*parts[:fixed]), "/".join(parts[fixed:])
    tokens = re.split(r"(\{stem\}|\*\*/|\*|\?)", rest)
    expression = "".join(WILDCARDS.get(token, re.escape(token)) for token in tokens)
    found = dict[str, Path]()
    for path in sorted(folder.rglob("[!.]*")):
        below = path.relative_to(folder).as_posix()
        if (fits := re.fullmatch(expression, below)) and path.is_file():
            stem = fits["stem"] if "{stem}" in rest else below.removesuffix(path.suffix)
            if stem in found:
                refuse("images", f"{found[stem]} and {path} share a stem; narrow the pattern")
            found[stem] = path
    if not found:
        refuse("images", f"no file fits {pattern!r} below {root.absolute()}; correct the pattern")
    return found


def listed(root: Path, pattern: str, split: str, path: Path) -> dict[str, Path]:
    """The images that a text file of stems names."""
    lines = path.read_text().splitlines() if path.is_file() else []
    if not (stems := [line.strip() for line in lines if line.strip()]):
        refuse("split", f"{path} is missing or empty; write one stem per line, or give a fraction")
    found = match(root, pattern, split)
    if unknown := [stem for stem in stems if stem not in found]:
        refuse("split", f"{path} names {unknown[0]!r}, but no image fits; correct the list")
    return {stem: found[stem] for stem in stems}


def divide(found: dict[str, Path], split: Any) -> dict[str, dict[str, Path]]:
    """Stems in the order of their hashes with the seed, so that the order of files is no matter."""
    shares = dict(checked("split", split, dict[StrictStr, float], SPLITS))
    seed = checked("split, seed", split.get("seed", 0), StrictInt, "0")
    shares.pop("seed", None)
    checked("split", shares, dict[str, Annotated[float, Gt(0), Lt(1)]], SPLITS)
    counts = {name: max(1, round(share * len(found))) for name, share in shares.items()}
    if "train" in counts or sum(counts.values()) >= len(found):
        refuse("split", f"{split} must leave some of {len(found)} images to train; lower it")
    drawn = iter(sorted(found, key=lambda stem: hashlib.sha256(f"{seed}/{stem}".encode()).digest()))
    parts = {name: list(islice(drawn, count)) for name, count in counts.items()}
    parts = {"train": list(drawn), **parts}
    return {name: {stem: found[stem] for stem in part} for name, part in parts.items()}
