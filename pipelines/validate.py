"""Explains what is wrong with a dataset before anything is prepared or trained."""

from collections import Counter

import numpy as np

from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.errors import InputError
from segcore.preparation import read_pair

SHOWN = 50


def main(key: str, project: Project) -> None:
    dataset, _ = project.dataset(key)
    project.raw(key).mkdir(parents=True, exist_ok=True)
    dataset.acquire(project.raw(key), project.drop(key))
    splits = dataset.pairs(project.raw(key))
    problems, pixels = list[str](), Counter[int]()
    with progress(f"validate {key}", sum(map(len, splits.values())), "images") as bar:
        for pair in (pair for pairs in splits.values() for pair in pairs):
            try:
                record, _ = read_pair(dataset, pair)
                values, counts = np.unique(
                    np.frombuffer(record.labels, np.uint8), return_counts=True
                )
                pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            except InputError as error:
                problems.append(str(error))
            bar.advance()
    for split, pairs in splits.items():
        print(f"{key} {split}: {len(pairs)} images")
    total = max(sum(pixels.values()), 1)
    for index, name in enumerate(dataset.classes.names):
        print(f"  {index:3d} {name:<24} {100 * pixels[index] / total:6.2f} % of all pixels")
    print(f"      {'ignored':<24} {100 * pixels[255] / total:6.2f} %")
    if problems:
        more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "\n  ".join(problems[:SHOWN])
        raise InputError(f"dataset {key}: {len(problems)} problem(s)\n  {listed}{more}")
    print(f"{key}: every image and label can be used")


if __name__ == "__main__":
    run_stage(main)
