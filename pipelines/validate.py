"""Explains what is wrong with a dataset before anything is prepared or trained."""

from typing import Any

from pipelines.prepare import where_to_work
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.preparation import Survey
from segcore.preparation.audit import described, summed
from segcore.preparation.tasks import examine


def main(key: str, project: Project) -> None:
    dataset, table = project.dataset(key)
    raw = project.raw(key)
    raw.mkdir(parents=True, exist_ok=True)
    dataset.acquire(raw, project.drop(key))
    survey = Survey(key, dataset, raw, table, project.work)
    with progress(f"validate {key}", survey.images, "images") as bar:
        for count in survey.run(examine, where_to_work()):
            bar.advance(count)
    counts = [part["counts"] for parts in survey.parts.values() for part in parts if part["counts"]]
    if counts:
        show_classes(dataset.classes.names, summed(counts))
    for line in described(survey.manifest()):
        print(f"{key} {line}")
    print(f"{key}: every image and label can be used")


def show_classes(names: tuple[str, ...], counts: dict[str, Any]) -> None:
    total = sum(counts["pixels"]) + counts["void_pixels"]
    shares = [*zip(names, counts["pixels"], strict=True), ("ignored", counts["void_pixels"])]
    for name, pixels in shares:
        print(f"  {name:<24} {100 * pixels / total:6.2f} % of all pixels")


if __name__ == "__main__":
    run_stage(main)
