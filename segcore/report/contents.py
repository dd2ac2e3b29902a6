"""What ``page.js`` draws: the numbers of a dataset's rows as one JSON value, shortened."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from segcore.report.images import SHEET_BYTES, Listed, picture
from segcore.report.rows import Number, Point, RowReport
from segcore.row import AFTER_TRAINING

LEAST_SHARE = 0.005
"""Confusions below this share of their class are not in a page."""
MOST_CONFUSED = 12
"""So many classes, at most, that a class is taken for."""
COSTS = {"fps": 1, "parameters": -1, "flops": -1}
"""What accuracy is drawn against, and whether more (1) or less (-1) of it is better."""
FIGURES = ("miou", "pixel_accuracy", "mean_accuracy")
"""Those of scores without intervals."""
SPLIT_FACTS = ("images", "pixels", "images_with", "ignored", "unlabelled_images", "absent")
SPLIT_FACTS += ("smallest", "largest", "sizes", "commonest_sizes", "mean", "std")


def board_contents(
    rows: Sequence[RowReport],
    entries: Sequence[dict[str, Any]],
    data: dict[str, Any] | None,
    images: Listed,
) -> dict[str, Any]:
    """``rows`` are those of one board, the best one first, ``entries`` those of its leaderboard;
    ``data`` is the manifest of their dataset."""
    top = rows[0]
    alike = entries[: sum(row.measured == top.measured for row in rows)]  # others do not compare
    accuracy = [entry["miou"] for entry in alike]
    costs = {key: [sign * entry[key] for entry in alike] for key, sign in COSTS.items()}
    return {
        "board": top.board,
        "classes": top.scores["classes"],
        "colours": top.scores["colours"],
        "pixels": np.array(top.result["confusion"]).sum(axis=1).tolist(),
        "fronts": {
            key: pareto_front(list(zip(values, accuracy, strict=True)))
            for key, values in costs.items()
        },
        "rows": [
            entry | _row_contents(row, images) for entry, row in zip(entries, rows, strict=True)
        ],
        "images": images,
        "data": _data_contents(data) if data else None,
    }


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other beats in both values, largest first value first."""
    best, front = -math.inf, list[int]()
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def confusions(counts: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Per labelled class the predicted ones with their share of its pixels, the largest first:
    itself and at most ``MOST_CONFUSED`` others; nothing for a class that is absent."""
    matrix = np.array(counts, dtype=float)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    found = list[list[tuple[int, float]]]()
    for label, row in enumerate(shares):
        order = np.argsort(-row, kind="stable")[: MOST_CONFUSED + 1].tolist()
        kept = [j for j in order if row[j] >= LEAST_SHARE and j != label]
        right = [label] if row[label] > 0 else []
        found.append([(j, round(float(row[j]), 3)) for j in right + kept[:MOST_CONFUSED]])
    return found


def _row_contents(row: RowReport, images: Listed) -> dict[str, Any]:
    scores = {image["id"]: image["miou"] for image in row.result["per_image"]}
    searched = any(trial["miou"] is not None for trial in row.search["trials"])
    return {
        "short": row.short_name,
        "iou": _rounded(row.result["iou"]),
        "accuracy": _rounded(row.result["accuracy"]),
        "confusion": confusions(row.result["confusion"]),
        "loss": [(step, float(f"{loss:.4g}")) for step, loss in row.training.loss],
        "curve": [(step, round(miou, 5)) for step, miou in row.training.miou],
        "scores": {name: scores[name] for name in images if name in scores},
        "looked_at": row.scores["looked_at"],
        "protocols": _protocols(row.scores),
        "refined": row.refined,
        "search": row.search if searched else None,
        "benchmark": row.benchmark,
        "data_hash": row.scores["data_hash"],
        "lineage": row.lineage,
        "config": {key: each for key, each in row.config.items() if key not in AFTER_TRAINING},
    }


def _rounded(values: Sequence[Number | None]) -> list[Number | None]:
    return [None if value is None else round(value, 4) for value in values]


def _protocols(scores: dict[str, Any]) -> dict[str, Any]:
    """By protocol and split every figure with its interval, where it has one."""
    by_protocol = {"": scores["splits"], **scores.get("protocols", {})}
    return {
        f"{protocol} {split}".strip(): {
            "images": result["images"],
            "figures": {key: result[key] for key in result.get("intervals", {}) or FIGURES},
            "intervals": result.get("intervals", {}),
        }
        for protocol, splits in by_protocol.items()
        for split, result in splits.items()
    }


def _data_contents(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "data_hash": data["data_hash"],
        "classes": data["classes"]["names"],
        "colours": data["classes"]["colours"],
        "licence": data["licence"],
        "same_pictures": data["same_pictures"],
        "skipped": data["skipped"],
        "splits": {
            split: {key: facts[key] for key in SPLIT_FACTS}
            for split, facts in data["splits"].items()
        },
        "sheet": picture(data["sheet"], SHEET_BYTES),
    }
