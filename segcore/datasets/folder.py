"""``folder``: any user's own images and labels, described by a few lines of YAML."""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import UInt8
from pydantic import StrictInt, StrictStr

from segcore.acquisition.archives import written_below
from segcore.acquisition.watch import NOBODY, Listener
from segcore.datasets import Dataset, Pair
from segcore.errors import in_one_list, suggestion
from segcore.files import read_json, write_json
from segcore.formats.colours import ColourTable, pack, unpack
from segcore.formats.polygons import draw, split_annotations
from segcore.formats.user_files import UserFiles, checked, refuse
from segcore.types import IGNORE, ClassTable

__all__ = ["Folder"]

UNDRAWN = "polygons/without_outline.json"
"""How many objects of COCO's file nobody outlined."""
Byte = Annotated[StrictInt, Ge(0), Le(255)]
Colour = tuple[Byte, Byte, Byte]
Codes = dict[str, list[Any]]
"""Class -> what stands for it in the labels: values, packed colours or names of objects."""


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
    folder of ``{stem}.png``, or with ``encoding: polygons`` COCO's one file for all images.
    ``split``: with one pattern, the fraction of images per further split, drawn with ``seed``;
    or per split a text file (``{train: train.txt, val: val.txt}``) that names in each line a stem,
    an image, or an image and its label.
    ``classes``: names of the label values 0, 1, ...; or each name with its value or values.
    ``encoding``: ``index`` (grey or palette labels), ``colour`` (RGB labels; every name, and
    ``ignore``, then has a colour ``[r, g, b]`` or a list of them) or ``polygons`` (JSON as of
    Cityscapes or COCO; a class is then the objects of its name, or of those that are listed).
    ``ignore``: values that are not labelled; 255, no colour, no name, unless given.
    ``background``: with polygons, the class where no object is; not labelled unless given.
    ``colours``: names with display colours; made up where not given.

    Raises InputError, naming the option and the remedy, on a table that does not fit the files.
    What is wrong with single files, or lines of a list, is told by ``prepare``, all at once.
    """

    home = "your own files"
    copies_across_splits = "refuse"
    missing_files = "leave"

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
        background: Any = None,
    ) -> None:
        self.root = Path(checked("root", root, StrictStr, "data/orchard")).expanduser()
        if not self.root.is_dir():
            refuse("root", f"{self.root.absolute()} is no folder; name the one of your data")
        self.label_pattern = checked("labels", labels, StrictStr, "labels/{stem}.png")
        if encoding not in ("index", "colour", "polygons"):
            refuse("encoding", f"{encoding!r} is neither index nor colour nor polygons")
        self.encoding = encoding
        codes = class_codes(classes, encoding)
        self.classes = class_table(codes, encoding, colours or {})
        unless_given = [255] if encoding == "index" else []
        ignored = read_codes("ignore", unless_given if ignore is None else ignore, encoding)
        self._lay_down(codes, ignored)
        self._background = background_of(background, encoding, list(codes))
        self._files = UserFiles(self.root)
        found = self._files.find_splits(images, split)
        self.problems = self._files.problems
        self._pairs = {name: self._paired(name, stems) for name, stems in found.items()}
        self._require_labels()
        self.split_sizes = {name: len(pairs) for name, pairs in self._pairs.items()}

    def __getstate__(self) -> dict[str, Any]:
        """What reading labels needs; the list of all files need not go to every process."""
        here = {"_pairs", "_files", "problems"}
        return {key: value for key, value in vars(self).items() if key not in here}

    def acquire(self, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        """Nothing is copied: the constructor has found every image and its label.

        COCO's one file alone is taken apart, into one small file per image below ``raw``.
        """
        if not self._shares_labels:
            return
        targets = dict[Path, dict[Path, Path]]()
        for split, pairs in self._pairs.items():
            parts = self.pairs(raw)[split]
            for pair, part in zip(pairs, parts, strict=True):
                targets.setdefault(pair.label, {})[pair.image] = part.label
        with written_below(raw):
            undrawn = sum(split_annotations(path, parts) for path, parts in targets.items())
            write_json(raw / UNDRAWN, undrawn)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        if not self._shares_labels:
            return self._pairs
        place = raw / "polygons"
        return {
            split: [pair._replace(label=place / split / f"{pair.id}.json") for pair in pairs]
            for split, pairs in self._pairs.items()
        }

    def notes(self, raw: Path) -> list[str]:
        shared = self._shares_labels
        patterns = () if shared else {self._label_pattern(split) for split in self._pairs}
        found, stems = self._files.labels_below(patterns), self._files.stems()
        own = {pair.label for pairs in self._pairs.values() for pair in pairs}
        told = self._files.left_out(own | found.keys())
        if orphans := [path for path, stem in found.items() if stem not in stems]:
            first = self._files.place(orphans[0])
            told.append(f"{len(orphans)} labels belong to no image (first: {first})")
        if shared and (raw / UNDRAWN).exists() and (count := read_json(raw / UNDRAWN)):
            told.append(f"{count} objects of COCO's file have no outline and cover nothing")
        return told

    def read_labels(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        if self.encoding == "index":
            return super().read_labels(path)
        if self.encoding == "polygons":
            return draw(path, self._train_id_of, self._background)
        return self._colours.read(path, "refuse", "add them to classes or ignore")

    @property
    def _shares_labels(self) -> bool:
        return self.encoding == "polygons" and "{stem}" not in self.label_pattern

    def _lay_down(self, codes: Codes, ignored: list[Any]) -> None:
        """Sets the tables by which ``read_labels`` turns codes into train ids."""
        found = dict[Any, int]()
        for train_id, name in [*enumerate(codes), (IGNORE, "ignore")]:
            for code in ignored if train_id == IGNORE else codes[name]:
                if code in found:
                    refuse(name, f"label value {code} has a meaning already; remove one of the two")
                found[code] = train_id
        self._train_id_of = found if self.encoding == "polygons" else {}
        self._colours = ColourTable.of(found if self.encoding == "colour" else {})
        raw = found if self.encoding == "index" else {index: index for index in range(len(codes))}
        self.known = frozenset(raw)
        self.train_ids = np.full(256, IGNORE, np.uint8)
        self.train_ids[list(raw)] = list(raw.values())

    def _paired(self, split: str, images: dict[str, Path]) -> list[Pair]:
        pattern, named = self._label_pattern(split), self._files.named_labels
        return [
            Pair(stem, image, named.get(image, self.root / pattern.replace("{stem}", stem)))
            for stem, image in sorted(images.items())
        ]

    def _label_pattern(self, split: str) -> str:
        pattern = self.label_pattern.replace("{split}", split)
        whole = "{stem}" in pattern or self._shares_labels
        return pattern if whole else f"{pattern}/{{stem}}.png"

    def _require_labels(self) -> None:
        """Where not one image has a label, it is their pattern that is wrong."""
        every = [pair for pairs in self._pairs.values() for pair in pairs]
        if every and not any(os.path.isfile(pair.label) for pair in every):
            split, pairs = next((name, found) for name, found in self._pairs.items() if found)
            head = f"{len(pairs)} of {len(pairs)} images of split {split} have no label"
            places = [str(pair.label) for pair in pairs]
            refuse("labels", in_one_list(f"{head}; add them or change the pattern", places))


def read_codes(option: str, value: Any, encoding: str) -> list[Any]:
    """One label value or several: numbers, colours packed into 24 bits, or names of objects."""
    if encoding == "index":
        given = checked(option, value, Byte | list[Byte], "3 or [3, 4]")
        return [given] if isinstance(given, int) else given
    if encoding == "polygons":
        given = checked(option, value, StrictStr | list[StrictStr], "car or [car, truck]")
        return [given] if isinstance(given, str) else given
    given = checked(option, value, Colour | list[Colour], "[99, 0, 0] or [[99, 0, 0], [0, 9, 0]]")
    return pack(np.array(given, np.int64).reshape(-1, 3)).tolist()


def class_codes(classes: Any, encoding: str) -> Codes:
    """The label values of every class, in class order."""
    if isinstance(classes, list) and encoding != "colour":
        names = checked("classes", classes, list[StrictStr], "[soil, leaf]")
        if len(set(names)) < len(names):
            refuse("classes", f"a name stands twice in {names}; names must differ")
        codes = range(len(names)) if encoding == "index" else names
        classes = dict(zip(names, codes, strict=True))
    values = checked("classes", classes, dict[StrictStr, Any], "{soil: 0, leaf: [1, 2]}")
    if not 1 <= len(values) <= IGNORE:
        refuse("classes", f"there are {len(values)}; give 1 to {IGNORE}")
    codes = {name: read_codes(f"class {name}", own, encoding) for name, own in values.items()}
    if empty := [name for name, own in codes.items() if not own]:
        refuse(f"class {empty[0]}", "nothing stands for it in the labels; say what, or remove it")
    return codes


def background_of(background: Any, encoding: str, names: list[str]) -> int:
    """The train id of what no polygon covers."""
    if background is None:
        return IGNORE
    if encoding != "polygons":
        refuse("background", f"{encoding} labels have none; remove it")
    if background not in names:
        refuse("background", f"no class {background!r}{suggestion(str(background), names)}")
    return names.index(background)


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
