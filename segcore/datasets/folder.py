"""``folder``: any user's own images and labels, described by a few lines of YAML."""

import hashlib
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Integer, UInt8
from PIL import Image
from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError

from segcore.datasets import Dataset, Pair
from segcore.errors import InputError, suggestion
from segcore.types import IGNORE, ClassTable

__all__ = ["Folder"]

Byte = Annotated[StrictInt, Ge(0), Le(255)]
Colour = tuple[Byte, Byte, Byte]
Strings = dict[StrictStr, StrictStr]
Codes = dict[str, list[int]]
WILDCARDS = {"{stem}": "(?P<stem>.+)", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
SPLITS = "{val: 0.2, seed: 0} or {train: train.txt, val: val.txt}"


class Folder(Dataset):
    """Files that stay where they are. A complete entry of ``params.yaml``::

        datasets:
          orchard:
            form: folder
            options:
              root: /home/ada/orchard             # absolute, or relative to the project
              images: "photos/{stem}.jpg"         # {stem} may span sub-folders
              labels: "labels/{stem}.png"
              split: {val: 0.2, seed: 0}          # the rest is train
              classes: {soil: 0, leaf: [1, 2], fruit: 3}
              ignore: [255]

    ``images``: one pattern, or one per split (``{train: "train/*.jpg", val: "val/*.jpg"}``).
    ``*`` and ``**`` match as in a shell. ``{stem}`` is what an image shares with its label; a
    pattern without it means the path below its first wildcard's folder, without suffix.
    ``labels``: where the label lies, from ``{stem}`` and ``{split}``; without ``{stem}``, the
    folder of ``{stem}.png``.
    ``split``: with one pattern, the fraction of images per further split, drawn with ``seed``;
    or per split a text file of stems (``{train: train.txt, val: val.txt}``).
    ``classes``: names of the label values 0, 1, ...; or each name with its value or values.
    ``encoding``: ``index`` (grey or palette labels) or ``colour`` (RGB labels; every name, and
    ``ignore``, then has a colour ``[r, g, b]`` or a list of them).
    ``ignore``: values that are not labelled; 255, or no colour, unless given.
    ``colours``: names with display colours; made up where not given.

    Raises InputError, naming the option and the remedy, on anything that does not fit the files.
    """

    home = "your own files"

    def __init__(
        self,
        root: Any,
        images: Any,
        labels: Any,
        classes: Any,
        split: Any = None,
        encoding: Any = "index",
        ignore: Any = None,
        colours: Any = None,
    ) -> None:
        self.root = Path(checked("root", root, StrictStr, "data/orchard")).expanduser()
        if not self.root.is_dir():
            refuse("root", f"{self.root.absolute()} is no folder; name the one of your data")
        self.label_pattern = checked("labels", labels, StrictStr, "labels/{stem}.png")
        if encoding not in ("index", "colour"):
            refuse("encoding", f"{encoding!r} is neither index nor colour")
        self.encoding = encoding
        codes = class_codes(classes, encoding)
        self.classes = class_table(codes, encoding, colours or {})
        unless_given = [255] if encoding == "index" else []
        ignored = read_codes("ignore", unless_given if ignore is None else ignore, encoding)
        self._lay_down(codes, ignored)
        found = find_splits(self.root, images, split)
        self._pairs = {name: self._paired(name, stems) for name, stems in found.items()}
        self.split_sizes = {name: len(pairs) for name, pairs in self._pairs.items()}

    def acquire(self, raw: Path, drop: Path) -> None:
        """Nothing is copied: the constructor has found every image and its label."""

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return self._pairs

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        if self.encoding == "index":
            return super().read_labels(path)
        with Image.open(path) as image:
            codes = pack(np.asarray(image.convert("RGB"), np.int64))
        nearest = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        if (stray := self._codes[nearest] != codes).any():
            counts = Counter(codes[stray].tolist()).most_common(5)
            listed = ", ".join(f"{unpack(code)} ({count} pixels)" for code, count in counts)
            raise InputError(f"{path}: add these colours to classes or ignore: {listed}")
        return self._code_train_ids[nearest]

    def _lay_down(self, codes: Codes, ignored: list[int]) -> None:
        """Sets the tables by which ``read_labels`` turns codes into train ids."""
        train_id_of = dict[int, int]()
        for train_id, name in [*enumerate(codes), (IGNORE, "ignore")]:
            for code in ignored if train_id == IGNORE else codes[name]:
                if code in train_id_of:
                    refuse(name, f"label value {code} has a meaning already; remove one of the two")
                train_id_of[code] = train_id
        table = np.array(sorted(train_id_of.items()), np.int64)
        self._codes, self._code_train_ids = table[:, 0], table[:, 1].astype(np.uint8)
        raw = train_id_of if self.encoding == "index" else dict(enumerate(range(len(codes))))
        self.known = frozenset(raw)
        self.train_ids = np.full(256, IGNORE, np.uint8)
        self.train_ids[list(raw)] = list(raw.values())

    def _paired(self, split: str, images: dict[str, Path]) -> list[Pair]:
        pattern = self.label_pattern.replace("{split}", split)
        if "{stem}" not in pattern:
            pattern += "/{stem}.png"
        labels = {stem: self.root / pattern.replace("{stem}", stem) for stem in images}
        pairs = [Pair(stem, images[stem], labels[stem]) for stem in sorted(images)]
        if missing := [pair for pair in pairs if not pair.label.is_file()]:
            count = f"{len(missing)} of {len(pairs)} images of split {split} have no label"
            refuse("labels", f"{count} (first: {missing[0].label}); add it or change the pattern")
        return pairs


def refuse(option: str, reason: str) -> NoReturn:
    raise InputError(f"dataset folder: {option}: {reason}")


def checked(option: str, value: Any, kind: Any, example: str) -> Any:
    """``value`` as ``kind``, or an InputError that shows an example."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        refuse(option, f"{value!r} does not fit; an example: {example}")


def pack(colours: Integer[np.ndarray, "*any 3"]) -> Integer[np.ndarray, "*any"]:
    return colours @ np.array([1 << 16, 1 << 8, 1])


def unpack(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


def read_codes(option: str, value: Any, encoding: str) -> list[int]:
    """One label value or several, as numbers; colours are packed into 24 bits."""
    if encoding == "index":
        given = checked(option, value, Byte | list[Byte], "3 or [3, 4]")
        return [given] if isinstance(given, int) else given
    given = checked(option, value, Colour | list[Colour], "[99, 0, 0] or [[99, 0, 0], [0, 9, 0]]")
    return pack(np.array(given, np.int64).reshape(-1, 3)).tolist()


def class_codes(classes: Any, encoding: str) -> Codes:
    """The label values of every class, in class order."""
    if isinstance(classes, list) and encoding == "index":
        names = checked("classes", classes, list[StrictStr], "[soil, leaf]")
        if len(set(names)) < len(names):
            refuse("classes", f"a name stands twice in {names}; names must differ")
        classes = dict(zip(names, range(len(names)), strict=True))
    values = checked("classes", classes, dict[StrictStr, Any], "{soil: 0, leaf: [1, 2]}")
    if not 1 <= len(values) <= IGNORE:
        refuse("classes", f"there are {len(values)}; give 1 to {IGNORE}")
    return {name: read_codes(f"class {name}", own, encoding) for name, own in values.items()}


def class_table(codes: Codes, encoding: str, colours: Any) -> ClassTable:
    """Display colours: the given ones, else those of colour labels, else fresh ones."""
    chosen = checked("colours", colours, dict[StrictStr, Colour], "{soil: [96, 64, 0]}")
    if unknown := [name for name in chosen if name not in codes]:
        refuse("colours", f"no class {unknown[0]!r}{suggestion(unknown[0], codes)}")
    if encoding == "colour":
        chosen = {name: unpack(own[0]) for name, own in codes.items() if own} | chosen
    # An odd factor permutes the residues of a power of two: no colour comes twice.
    made_up = (unpack(index * 0x9E3779 % (1 << 24)) for index in range(1, 2 * IGNORE))
    fresh = (colour for colour in made_up if colour not in chosen.values())
    shown = tuple(chosen[name] if name in chosen else next(fresh) for name in codes)
    return ClassTable(tuple(codes), shown, tuple(range(len(codes))))


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
