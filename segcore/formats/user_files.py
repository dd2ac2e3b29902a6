"""A user's own files: which of them are images, and how they are divided into splits."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

from annotated_types import Gt, Lt
from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError

from segcore.errors import InputError
from segcore.formats.lists import lines_of

Strings = dict[StrictStr, StrictStr]
WILDCARDS = {"{stem}": "(?P<stem>.+)", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
SPLITS = "{val: 0.2, seed: 0} or {train: train.txt, val: val.txt}"
STEMS = "write one stem per line, or give a fraction"
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
PICTURES |= {".pbm", ".heic", ".avif", ".jp2"}
"""Suffixes of what somebody may take for an image."""


def refuse(option: str, reason: str) -> NoReturn:
    raise InputError(f"dataset folder: {option}: {reason}")


def checked(option: str, value: Any, kind: Any, example: str) -> Any:
    """``value`` as ``kind``, or an InputError that shows an example."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        refuse(option, f"{value!r} does not fit; an example: {example}")


class Pattern:
    """Which files are meant: ``*`` and ``**`` as in a shell, ``{stem}`` as much as it takes."""

    def __init__(self, root: Path, text: str) -> None:
        parts = text.split("/")
        wild = (n for n, part in enumerate(parts) if re.search(r"[*?{]", part))
        fixed = next(wild, len(parts) - 1)
        self.text, self.folder = text, root.joinpath(*parts[:fixed])
        rest = "/".join(parts[fixed:])
        self.with_stem = "{stem}" in rest
        tokens = re.split(r"(\{stem\}|\*\*/|\*|\?)", rest)
        self.expression = re.compile(
            "".join(WILDCARDS.get(token, re.escape(token)) for token in tokens)
        )

    def stem_of(self, path: Path) -> str | None:
        """None where the file does not fit."""
        below = path.relative_to(self.folder).as_posix()
        if not (fits := self.expression.fullmatch(below)):
            return None
        return fits["stem"] if self.with_stem else below.removesuffix(path.suffix)


class UserFiles:
    """The images below a folder. What is wrong with how they lie there, or with a list of them,
    is added to ``problems``; a mistake in the table itself is an InputError."""

    def __init__(self, root: Path) -> None:
        self.root, self.problems = root, list[str]()
        self.named_labels = dict[Path, Path]()
        """Image -> its label, where a list names both."""
        self._walked = dict[Path, list[Path]]()
        self._matched = dict[str, dict[str, Path]]()
        self._fitting = set[Path]()

    def find_splits(self, images: Any, split: Any) -> dict[str, dict[str, Path]]:
        """The images of every split by stem."""
        images = checked("images", images, StrictStr | Strings, '"photos/{stem}.jpg"')
        if isinstance(images, dict) == bool(split):
            needed = "needed with one pattern of images, and only then; or a pattern per split"
            refuse("split", needed)
        if isinstance(images, dict):
            return {name: self.match(pattern, name) for name, pattern in images.items()}
        if isinstance(split, dict) and all(isinstance(value, str) for value in split.values()):
            return {
                name: self.listed(images, name, self.root / path) for name, path in split.items()
            }
        return divide(self.match(images, ""), split)

    def match(self, text: str, split: str) -> dict[str, Path]:
        """The files that fit a pattern, by stem; hidden ones are passed over."""
        text = text.replace("{split}", split)
        if text not in self._matched:
            pattern = Pattern(self.root, text)
            if pattern.folder not in self._walked:
                self._walked[pattern.folder] = files_below(pattern.folder, self.problems)
            self._matched[text] = self._fitting_of(pattern, self._walked[pattern.folder])
            if not (self._matched[text] or self.problems):
                place = f"no file fits {text!r} below {self.root.absolute()}"
                refuse("images", "; ".join([place, "correct the pattern", *self.left_out(())]))
        return self._matched[text]

    def _fitting_of(self, pattern: Pattern, files: Iterable[Path]) -> dict[str, Path]:
        found = dict[str, Path]()
        for path in files:
            if (stem := pattern.stem_of(path)) is None:
                continue
            self._fitting.add(path)
            if problem := _problem_of(path):
                self.problems.append(problem)
            elif stem in found:
                problem = f"{found[stem]} and {path} share a stem; narrow the pattern"
                self.problems.append(problem)
            elif os.path.isfile(path) or not os.path.exists(path):  # else a pipe, or a device
                found[stem] = path
        return found

    def listed(self, text: str, split: str, path: Path) -> dict[str, Path]:
        """The images that a text file names: by stem, by path, or beside the path of a label."""
        if not (lines := lines_of(path, STEMS) if path.is_file() else []):
            refuse("split", f"{path} is missing or empty; {STEMS}")
        found, chosen = self.match(text, split), dict[str, Path]()
        folder = Pattern(self.root, text.replace("{split}", split)).folder
        names = {os.path.abspath(image): stem for stem, image in found.items()}
        for number, line in lines:
            stem, label = self._named(line, folder, found.keys(), names)
            if stem is None:
                problem = f"{path} names {line!r}, but no image fits; correct line {number}"
                self.problems.append(problem)
            elif stem in chosen:
                self.problems.append(f"{path} names {stem!r} again; remove line {number}")
            else:
                chosen[stem] = found[stem]
                if label:
                    self.named_labels[found[stem]] = self.root / label
        return chosen

    def _named(
        self, line: str, folder: Path, stems: Collection[str], names: dict[str, str]
    ) -> tuple[str | None, str]:
        """The stem that a line means, and the label beside it."""
        columns = re.split(r"[\s,]+", line)
        for name, label in ((line, ""), *([columns] if len(columns) == 2 else [])):
            if name in stems:
                return name, label
            for place in (self.root, folder):
                if (path := os.path.abspath(place / name)) in names:
                    return names[path], label
        return None, ""

    def place(self, path: Path) -> str:
        """Below the root, so that it is the same wherever that lies."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def stems(self) -> set[str]:
        """Of all images, in a list or not."""
        return {stem for found in self._matched.values() for stem in found}

    def labels_below(self, texts: Iterable[str]) -> dict[Path, str]:
        """The labels that fit any of some patterns, with their stems; images may be missing."""
        found = dict[Path, str]()
        for pattern in (Pattern(self.root, text) for text in texts):
            for path in files_below(pattern.folder, []):
                if path not in self._fitting and (stem := pattern.stem_of(path)):
                    found[path] = stem
        return found

    def left_out(self, others: Collection[Path]) -> list[str]:
        """How many pictures lie beside the images, fit no pattern, and are none of ``others``."""
        files = {path for found in self._walked.values() for path in found}
        passed = files - self._fitting - set(others) - set(self.named_labels.values())
        counts = Counter(path.suffix for path in sorted(passed) if path.suffix.lower() in PICTURES)
        if not counts:
            return []
        listed = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())
        places = ", ".join(sorted(map(self.place, self._walked)))
        return [f"{counts.total()} files below {places} fit no pattern of images ({listed})"]


def _problem_of(path: Path) -> str:
    if os.path.islink(path) and not os.path.exists(path):
        return f"{path} is a link to nothing; mend it, or remove it"
    name = os.fsencode(path).decode(errors="backslashreplace")
    return "" if name == str(path) else f"{name} has a name that is no UTF-8; rename it"


def files_below(top: Path, problems: list[str]) -> list[Path]:
    """All files below a folder, sorted, and those of linked folders; nothing hidden.

    A folder that several links lead to is read once. What cannot be read is a problem.
    """

    def unread(error: OSError) -> None:
        if top.exists():
            problems.append(f"{error.filename} cannot be read: {error.strerror}; mend it")

    found, waiting, seen = list[Path](), [top], set[tuple[int, int]]()
    while waiting:
        for name, folders, files in os.walk(waiting.pop(0), onerror=unread):
            folder, status = Path(name), os.stat(name)
            if (identity := (status.st_dev, status.st_ino)) in seen:
                folders.clear()
                continue
            seen.add(identity)
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            # these are not walked into: first of all comes what lies here under its own name
            waiting += [folder / each for each in folders if (folder / each).is_symlink()]
            found += [folder / each for each in files if not each.startswith(".")]
    return sorted(found)


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
