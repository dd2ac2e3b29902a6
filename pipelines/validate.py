"""Explains what is wrong with a dataset before anything is prepared or trained; writes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipelines.prepare import where_to_work
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.acquisition.archives import written_below
from segcore.download import INVENTORY
from segcore.errors import InputError
from segcore.preparation import Survey
from segcore.preparation.audit import described, summed
from segcore.preparation.processes import in_processes
from segcore.preparation.tasks import examine

if TYPE_CHECKING:
    from segcore.datasets import Dataset


def main(key: str, project: Project) -> None:
    dataset, table = project.dataset(key)
    with raw_files(key, dataset, project) as raw:
        survey = Survey(key, dataset, raw, table, project.work)
        # other machines do not see a folder of this one's own
        mapper = where_to_work() if raw == project.raw(key) else in_processes
        with progress(f"validate {key}", survey.images, "images") as bar:
            for count in survey.run(examine, mapper):
                bar.advance(count)
    counts = [part["counts"] for parts in survey.parts.values() for part in parts if part["counts"]]
    if counts:
        show_classes(dataset.classes.names, summed(counts))
    for line in described(survey.manifest()):
        print(f"{key} {line}")
    print(f"{key}: every image and label can be used")


@contextmanager
def raw_files(key: str, dataset: "Dataset", project: Project) -> Iterator[Path]:
    """Where they lie. What needs no fetching is made in a folder that goes, unless it is there.

    Raises InputError where *download* has yet to bring them.
    """
    raw = project.raw(key)
    if (raw / INVENTORY).is_file():
        yield raw
    elif dataset.archives:
        raise InputError(f"the raw files of {key} are not in {raw}; run: dvc repro download@{key}")
    else:
        with TemporaryDirectory() as made:
            with written_below(Path(made)):
                dataset.acquire(Path(made), project.drop(key))
            yield Path(made)


def show_classes(names: tuple[str, ...], counts: dict[str, Any]) -> None:
    total = sum(counts["pixels"]) + counts["void_pixels"]
    shares = [*zip(names, counts["pixels"], strict=True), ("ignored", counts["void_pixels"])]
    for name, pixels in shares:
        print(f"  {name:<24} {100 * pixels / total:6.2f} % of all pixels")


if __name__ == "__main__":
    run_stage(main)
