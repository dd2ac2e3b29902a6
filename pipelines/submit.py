"""Packs a row's labels of test images as the dataset's test server takes them.

SOURCE is a folder of images, since nobody has the labels that a prepared split would need, or a
prepared split, to see what a server would get. The images are looked at as the row's `test_time`
says.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipelines.gathering import gathered, read_image
from pipelines.progress import progress
from pipelines.project import Project
from pipelines.registration import held_version
from pipelines.stage import run_safely
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.inference import predictor
from segcore.model_files import load_model
from segcore.runs import device_of
from segcore.shards import ShardReader
from segcore.submissions import form_of, write_submission

Images = Iterator[tuple[str, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", help="a row of the table")
    parser.add_argument("source", help="a folder of images, or a prepared split")
    parser.add_argument("--out", type=Path, help="the archive; predictions/ROW unless given")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    asked = parser.parse_args()
    project = Project(Path.cwd(), asked.params)
    run_safely(lambda: print(f"labels: {submit(project, asked.row, asked.source, asked.out)}"))


def submit(project: Project, key: str, source: str, out: Path | None) -> Path:
    """Writes the archive and returns its path."""
    run = project.row(key)
    if run.test_time.crop:
        raise InputError(
            f"row {key}: test_time looks at a crop, but a server wants whole images; name a row "
            "without crop"
        )
    dataset, table = project.dataset(run.dataset)
    form = form_of(table.form or run.dataset)
    store = open_store(project.root)
    model = load_model(store.fetch(key, held_version(store, key, project.run(key)).number))
    network = model.network.to(device_of(run))
    predict = predictor(run.test_time, model.classes.mirror)
    count, images = _images(project, run.dataset, source)
    path = out or project.root / "predictions" / f"{key}{form.archive}"
    with progress(f"submit {key}", count, "images") as bar:

        def results() -> Images:
            for name, image in images:
                yield name, predict(network, image[None])[0].cpu()
                bar.advance()

        write_submission(form, dataset, results(), path)
    return path


def _images(project: Project, dataset: str, source: str) -> tuple[int, Images]:
    """How many, and each with its name."""
    folder = Path(source)
    if not folder.is_dir():
        reader = ShardReader(project.require_shards(dataset), source)
        samples = (reader[index] for index in range(len(reader)))
        return len(reader), ((sample.id, sample.image) for sample in samples)
    files = gathered([folder])
    return len(files), ((path.stem, _read(path)) for path in files)


def _read(path: Path) -> Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


if __name__ == "__main__":
    main()
