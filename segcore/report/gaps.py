"""What chance may have done: how far a row is behind another one, and how far its seeds spread."""

from collections.abc import Sequence
from typing import Any

from segcore.intervals import difference, image_counts, interval
from segcore.metrics import mean_iou
from segcore.report.rows import Number, RowReport

NOT_THE_ROW = {"key", "seed", "search", "benchmark_size"}
"""What may differ between two trainings of the same row."""


def gap(best: RowReport, row: RowReport) -> list[float] | None:
    """The row's mIoU minus that of the best one, and the ends of its paired 95 % interval; None
    for the best one itself, and where ``paired`` knows none."""
    if row is best or row.scores["data_hash"] != best.scores["data_hash"]:
        return None
    return paired(row.result, best.result, len(row.scores["classes"]))


def paired(ours: dict[str, Any], theirs: dict[str, Any], num_classes: int) -> list[float] | None:
    """The mIoU of one split's scores minus that of others, and the ends of its paired 95 %
    interval; None where the two are not of the same images, or do not tell what is in each."""
    per_image = [each["per_image"] for each in (ours, theirs)]
    if not _comparable(per_image):
        return None
    counts, others = (image_counts(images, num_classes) for images in per_image)
    return list(difference([counts], [others], mean_iou))


def over_seeds(rows: Sequence[RowReport]) -> dict[str, list[Number]]:
    """By row, where others are the same but for their seed: the mean mIoU of them all, the ends of
    its 95 % interval over images and seeds, and how many they are."""
    groups = list[list[RowReport]]()
    for row in rows:
        same = (group for group in groups if _repeated(group[0], row))
        if group := next(same, None):
            group.append(row)
        else:
            groups.append([row])
    found = dict[str, list[Number]]()
    for group in (each for each in groups if len(each) > 1):
        classes = len(group[0].scores["classes"])
        runs = [image_counts(row.result["per_image"], classes) for row in group]
        spread = [*interval(runs, mean_iou), len(group)]
        found |= {row.name: spread for row in group}
    return found


def _repeated(one: RowReport, other: RowReport) -> bool:
    if one.measured != other.measured or one.scores["data_hash"] != other.scores["data_hash"]:
        return False
    configs = [
        {key: value for key, value in row.config.items() if key not in NOT_THE_ROW}
        for row in (one, other)
    ]
    seeds = {row.config.get("seed") for row in (one, other)}
    alike = configs[0] == configs[1] and len(seeds) > 1
    return alike and _comparable([row.result["per_image"] for row in (one, other)])


def _comparable(both: Sequence[list[dict[str, Any]]]) -> bool:
    ids = [[image["id"] for image in images] for images in both]
    return ids[0] == ids[1] and all("classes" in image for images in both for image in images)
