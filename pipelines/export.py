"""Writes a registered model as ONNX or as PyTorch's exported program, for programs without Segcore.

A file stays only if it labels images of the row's data set as the network does. Beside it
``<row>.json`` says what goes in, what comes out, and how far the two are apart.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from pipelines.project import Project
from pipelines.stage import run_safely
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.export import FORMS, SMALLEST, export, stride_of
from segcore.files import write_json
from segcore.model_files import load_model
from segcore.shards import Manifest, ShardReader
from segcore.targets import classes_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", metavar="ROW[@ALIAS|@VERSION]", help="champion unless given")
    parser.add_argument(
        "--form", nargs="+", choices=[*FORMS], default=[*FORMS], help="default: all"
    )
    parser.add_argument("--images", type=int, default=4, help="to compare on (4)")
    parser.add_argument("--out", type=Path, default=Path("exports"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    arguments = parser.parse_args()
    project = Project(Path.cwd(), arguments.params)
    forms, images, out = arguments.form, arguments.images, arguments.out
    run_safely(lambda: export_row(arguments.row, forms, images, out, project))


def export_row(row: str, forms: list[str], images: int, out: Path, project: Project) -> None:
    """Raises InputError where a file would differ from the network; it is not left behind."""
    if images < 1:
        raise InputError(f"--images {images}: at least one image must be compared")
    name, _, version = row.partition("@")
    model = load_model(open_store(project.root).fetch(name, version or "champion"))
    shards, split = project.require_shards(model.config.dataset), model.config.splits[0]
    if classes_of(model.config, Manifest.read(shards).classes) != model.classes:
        raise InputError(
            f"{row} was trained on other classes than {shards} holds; name the version"
        )
    reader = ShardReader(shards, split)
    places = range(0, len(reader), max(len(reader) // images, 1))[:images]
    samples = [reader[place] for place in places]
    facts = {
        "model": f"{name}@{version or 'champion'}",
        "input": "images: uint8 [1, 3, height, width], RGB",
        "sides": f"multiples of {stride_of(model.network)} from {SMALLEST} on",
        "outputs": {"labels": "uint8 [1, height, width]", "logits": "float32, at a stride"},
        "classes": asdict(model.classes),
        "compared_on": [sample.id for sample in samples],
        "differences": {},
    }
    for form in forms:
        path = out / f"{name}.{form}"
        difference = export(model.network, form, path, [sample.image for sample in samples])
        facts["differences"][form] = difference._asdict()
        print(
            f"{path}: on {len(samples)} image(s) of {split} its logits differ by at most "
            f"{difference.logits:.1e} of their deviation, its labels in {difference.labels:.4%} "
            "of the pixels"
        )
    write_json(out / f"{name}.json", facts)


if __name__ == "__main__":
    main()
