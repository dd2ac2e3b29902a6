"""What a prepared dataset holds, counted while it was prepared: the audit in its manifest."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from math import log
from statistics import median
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segcore.tables import DatasetTable, Treatment
from segcore.types import IGNORE, ClassTable

SHOWN = 20
"""Samples, sizes and copies that a manifest names; the rest is counted."""

Place = tuple[str, str]
"""Split and sample."""


def counted(
    labels: UInt8[np.ndarray, "h w"],
    pixels: UInt8[np.ndarray, "h w 3"],
    classes: int,
    overlap: int = 0,
) -> dict[str, Any]:
    """What is counted of one stored sample; ``overlap`` labels are a neighbouring tile's."""
    histogram = np.array(Image.fromarray(labels).histogram())
    assert not histogram[classes:IGNORE].any(), "a dataset gave labels that are no train ids"
    values = np.array(Image.fromarray(pixels).histogram()).reshape(3, 256)
    levels, present = np.arange(256), histogram[:classes] > 0
    return {
        "pixels": histogram[:classes],
        "void_pixels": histogram[IGNORE] - overlap,
        "overlap_pixels": overlap,
        "images_with": present,
        "pixels_beside": present * (histogram.sum() - overlap),
        "unlabelled_images": not histogram[:IGNORE].any(),
        "channels": np.stack([values @ levels, values @ levels**2]),
    }


def summed(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.sum([count[key] for count in counts], axis=0).tolist() for key in counts[0]}


def content_hash(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Names the picture, however it was encoded; empty where it has one colour only, since such
    frames are equal without being copies."""
    if (pixels == pixels[0, 0]).all():
        return ""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def same_pictures(splits: dict[str, list[dict[str, Any]]]) -> list[list[Place]]:
    """Samples that hold the same picture, those across splits first."""
    places = defaultdict[str, list[Place]](list)
    for split, parts in splits.items():
        for name, content in (seen for part in parts for seen in part["contents"]):
            places[content].append((split, name))
    found = [group for content, group in places.items() if content and len(group) > 1]
    return sorted(found, key=lambda group: (not across(group), group))


def across(group: list[Place]) -> bool:
    return len({split for split, _ in group}) > 1


def build_manifest(
    dataset: str,
    classes: ClassTable,
    licence: str,
    table: DatasetTable,
    splits: dict[str, list[dict[str, Any]]],
    same: list[list[Place]],
    notes: list[str],
) -> dict[str, Any]:
    """``splits`` holds per shard its ``shard`` (name, sha256, rows), ``counts``, ``sizes``
    (height, width, samples), ``contents`` (sample, hash of its picture), ``unlabelled`` and
    ``problems``: the samples left out, with reasons; ``same`` the samples of ``same_pictures``.

    ``data_hash`` is the sha256 of what ``sha256sum *.parquet`` prints.
    """
    shards = [part["shard"] for parts in splits.values() for part in parts if part["counts"]]
    lines = sorted((shard["name"], shard["sha256"]) for shard in shards)
    listed = "".join(f"{sha256}  {name}\n" for name, sha256 in lines)
    return {
        "dataset": dataset,
        "data_hash": hashlib.sha256(listed.encode()).hexdigest(),
        "licence": licence,
        "options": table.options,
        "treatment": table.model_dump(mode="json", include=set(Treatment.model_fields)),
        "classes": asdict(classes),
        "same_pictures": {
            "across_splits": sum(map(across, same)),
            "within_splits": sum(not across(group) for group in same),
            "first": [group[:SHOWN] for group in same[:SHOWN]],
        },
        "skipped": [
            {"split": split, "id": name, "reason": reason}
            for split, parts in splits.items()
            for part in parts
            for name, reason in part["problems"]
        ],
        "notes": notes,
        "splits": {split: _split_entry(parts, classes) for split, parts in splits.items()},
    }


def _split_entry(parts: list[dict[str, Any]], classes: ClassTable) -> dict[str, Any]:
    """``mean`` and ``std`` are per channel, 0 to 255; ``smallest`` and ``largest`` are the
    extremes of height and of width; ``ignored`` is the share of pixels without a label."""
    parts = [part for part in parts if part["counts"]]
    counts = summed([part["counts"] for part in parts])
    labelled = sum(counts["pixels"])
    pixels = labelled + counts["void_pixels"] + counts["overlap_pixels"]
    mean, squares = np.array(counts.pop("channels"), np.float64) / pixels
    beside, sizes = counts.pop("pixels_beside"), Counter[tuple[int, int]]()
    for height, width, images in (size for part in parts for size in part["sizes"]):
        sizes[height, width] += images
    commonest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    present = zip(classes.names, counts["pixels"], strict=True)
    return {
        "images": sum(part["shard"]["rows"] for part in parts),
        **counts,
        "absent": [name for name, count in present if not count],
        "ignored": round(counts["void_pixels"] / (labelled + counts["void_pixels"]), 6),
        "unlabelled": [name for part in parts for name in part["unlabelled"]][:SHOWN],
        "mean": mean.round(4).tolist(),
        "std": np.sqrt(squares - mean**2).round(4).tolist(),
        "smallest": np.min(list(sizes), axis=0).tolist(),
        "largest": np.max(list(sizes), axis=0).tolist(),
        "sizes": len(sizes),
        "commonest_sizes": [[*size, images] for size, images in commonest],
        "class_weights": {
            "median_frequency": median_frequency(counts["pixels"], beside),
            "inverse_log": inverse_log(counts["pixels"]),
        },
        "shards": [part["shard"] for part in parts],
    }


def median_frequency(pixels: Sequence[int], beside: Sequence[int]) -> list[float]:
    """Median of the classes' frequencies over each one's (Eigen and Fergus, 2015,
    arXiv:1411.4734, section 6.3.2); 0 where a class never occurs.

    A frequency is the class's pixels over ``beside``, all pixels of the images that hold it.
    """
    shares = [own / all_ for own, all_ in zip(pixels, beside, strict=True) if own]
    if not shares:
        return [0.0] * len(pixels)
    middle = median(shares)
    pairs = zip(pixels, beside, strict=True)
    return [round(middle * all_ / own, 6) if own else 0.0 for own, all_ in pairs]


def inverse_log(pixels: Sequence[int]) -> list[float]:
    """1 / ln(1.02 + share of the labelled pixels) (Paszke et al., 2016, arXiv:1606.02147,
    section 5.1: ENet)."""
    total = max(sum(pixels), 1)
    return [round(1 / log(1.02 + own / total), 6) for own in pixels]


def described(manifest: dict[str, Any]) -> list[str]:
    """The audit in a few lines, for a person."""
    lines = list[str]()
    for split, facts in manifest["splits"].items():
        notes = [f"{facts['images']} images", f"{100 * facts['ignored']:.2f} % not labelled"]
        if facts["absent"]:
            notes.append(f"absent: {', '.join(facts['absent'])}")
        if facts["unlabelled_images"]:
            first = f"(first: {facts['unlabelled'][0]})"
            notes.append(f"{facts['unlabelled_images']} without any label {first}")
        lines.append(f"{split}: {'; '.join(notes)}")
    found = manifest["same_pictures"]
    for where in ("across_splits", "within_splits"):
        if found[where]:
            lines.append(
                f"{found[where]} picture(s) stand more than once {where.replace('_', ' ')}"
            )
    for group in found["first"][:3]:
        lines.append(f"  the same picture: {', '.join('/'.join(place) for place in group[:4])}")
    lines += manifest["notes"]
    lines += [
        f"left out {bad['split']}/{bad['id']}: {bad['reason']}" for bad in manifest["skipped"]
    ]
    return lines
