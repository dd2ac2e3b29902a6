"""What a search found, as files: ``search.json``, a table, pictures, and a row to run again."""

import csv
from pathlib import Path
from typing import Any

import yaml

from segcore.files import write_json, written_whole
from segcore.tables import Options


def write(folder: Path, result: dict[str, Any]) -> None:
    """``search.json`` and ``search/trials.csv``."""
    names = list(result["space"])
    with written_whole(folder / "search" / "trials.csv") as aside, aside.open("w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["trial", *names, "miou", "steps", "status"])
        for trial in result["trials"]:
            values = [trial["values"].get(name) for name in names]
            table.writerow([trial["id"], *values, trial["miou"], trial["steps"], trial["status"]])
    write_json(folder / "search.json", result)


def show(result: dict[str, Any], folder: Path, key: str, row: Options) -> list[Path]:
    """Draws what there is to draw, and writes the best trial as a ``row`` to run again."""
    from segcore import search_pictures

    pictures = {
        "history": search_pictures.search_history,
        "early_stopping": search_pictures.early_stopping,
        "parallel_coordinates": search_pictures.parallel_coordinates,
    }
    if result["importance"]:
        pictures["importance"] = search_pictures.importances
    if "front" in result:
        pictures["latency"] = search_pictures.latency_front
    for name, picture in pictures.items():
        picture(result, folder / f"{name}.png")
    text = yaml.safe_dump({"rows": {f"{key}-best": row}}, sort_keys=False)
    with written_whole(folder / "best.yaml") as aside:
        aside.write_text(f"# The best trial as a row of params.yaml.\n{text}")
    return [*(folder / f"{name}.png" for name in pictures), folder / "best.yaml"]
