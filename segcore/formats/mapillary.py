"""Mapillary Vistas' package, which holds the same images for both versions of its labels."""

from pathlib import Path

from segcore.acquisition.archives import Archive

HOME = "https://www.mapillary.com/dataset/vistas"
LICENCE = "research edition: its own licence, which bars commercial use"
FOLDERS = {"train": "training", "val": "validation"}
SPLIT_SIZES = {"train": 18000, "val": 2000}
ARCHIVES = (Archive("*", trees=("training", "validation", "[!.]*/training", "[!.]*/validation")),)
"""It lies at the top, or in a folder of its own."""


def files_of(raw: Path, *labels: str) -> dict[str, list[tuple[str, Path, Path]]]:
    """Of each split's samples the name, the image and the label.

    ``labels``: the folder of the labels, or several, of which the first that is there is meant.
    """
    tree = next(iter(sorted(raw.glob("[!.]*/training"))), raw / "training").parent
    found = dict[str, list[tuple[str, Path, Path]]]()
    for split, folder in FOLDERS.items():
        places = [tree / folder / name for name in labels]
        place = next((place for place in places if place.is_dir()), places[-1])
        images = sorted((tree / folder / "images").glob("[!.]*.jpg"))
        found[split] = [(path.stem, path, place / f"{path.stem}.png") for path in images]
    return found
