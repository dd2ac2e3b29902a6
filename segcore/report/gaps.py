"""How far a row is behind the best one, and whether that is more than chance of the images."""

from typing import Any

from segcore.intervals import difference, image_counts
from segcore.metrics import mean_iou
from segcore.report.rows import RowReport


def gap(best: RowReport, row: RowReport) -> list[float] | None:
    """The row's mIoU minus that of the best one, and the ends of its paired 95 % interval.

    None for the best one itself, and where the two were not scored on the same images, or by
    scores that do not tell what is in each image.
    """
    ours, theirs = (each.result["per_image"] for each in (row, best))
    if row is best or row.scores["data_hash"] != best.scores["data_hash"]:
        return None
    if _ids(ours) != _ids(theirs) or not all("classes" in image for image in (*ours, *theirs)):
        return None
    classes = len(row.scores["classes"])
    counts, others = (image_counts(images, classes) for images in (ours, theirs))
    return list(difference([counts], [others], mean_iou))


def _ids(per_image: list[dict[str, Any]]) -> list[str]:
    return [image["id"] for image in per_image]
