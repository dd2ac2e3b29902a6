"""The model card of a row: what it is, how well it does, on what, and what it is not for.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019, arXiv:1810.03993).
"""

import json
from pathlib import Path
from typing import Any

from segcore.files import read_json
from segcore.protocols import as_seen
from segcore.shards import MANIFEST
from segcore.storage import read_bytes

FIGURES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "boundary_iou": "boundary IoU",
    "boundary_f": "boundary F",
}
INTENDED = """\
Labels for the pixels of photographs like those of the data set: the same kind of scene and camera.
Scores say nothing about other places, seasons or sensors; have it scored on pictures of your own.
It answers with a class for every pixel, also where it cannot know. It is no safety component."""


def model_card(folder: Path, shards: str) -> str:
    """Markdown, from a row's folder and the address of its prepared data set.

    Scores stand in it once ``scores.json`` does; until then the validation score of training.
    Raises InputError where the folder is not that of a trained row.
    """
    config, registered = read_json(folder / "config.json"), read_json(folder / "registered.json")
    classes = read_json(folder / "classes.json")["names"]
    data = json.loads(read_bytes(f"{shards.rstrip('/')}/{MANIFEST}"))
    images = ", ".join(f"{split} {part['images']}" for split, part in data["splits"].items())
    hyper = ("optimizer", "learning_rate", "loss", "seed")
    facts = {
        "Method": f"{config['method']} on {config['backbone']}",
        "Training": f"{config['steps']} steps of {config['batch_size']} images; "
        + ", ".join(f"{key} {config[key]}" for key in hyper),
        "Data set": f"{config['dataset']} ({images} images), sha256 {registered['data_hash']}",
        "Licence of the data": data["licence"] or "not stated; ask who owns it",
        "Classes": f"{len(classes)}: {', '.join(classes)}",
        "Input": "RGB images of any size: JPEG or PNG files, or uint8 arrays [h, w, 3]",
    }
    listed = "\n".join(f"- **{name}**: {value}" for name, value in facts.items())
    scores = _scores(folder, registered)
    return (
        f"# {config['key']}\n\n{listed}\n\n## Scores\n\n{scores}\n\n## Intended use\n\n{INTENDED}\n"
    )


def _scores(folder: Path, registered: dict[str, Any]) -> str:
    if not (folder / "scores.json").exists():
        return f"Not evaluated yet. Best validation mIoU in training: {registered['miou']:.4f}."
    scores = read_json(folder / "scores.json")
    heads = [f"{title} %" for title in FIGURES.values()]
    lines = [["split", "looked at", "images", *heads], ["---"] * (3 + len(heads))]
    for name, splits in {"": scores["splits"], **scores["protocols"]}.items():
        for split, result in splits.items():
            cells = [_cell(result, figure) for figure in FIGURES]
            how = as_seen(scores["looked_at"][name], result)
            lines.append([split, how, str(result["images"]), *cells])
    told = "In parentheses: 95 % intervals, by bootstrap over images. The first line decides."
    if scores["data_hash"] != registered["data_hash"]:
        told += f" Scored on other data than it was trained on: sha256 {scores['data_hash']}."
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{told}"


def _cell(result: dict[str, Any], figure: str) -> str:
    """In per cent, with its interval where there is one."""
    value, ends = result.get(figure), result.get("intervals", {}).get(figure)
    if value is None:
        return "–"
    interval = f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""
    return f"{100 * value:.2f}{interval}"
