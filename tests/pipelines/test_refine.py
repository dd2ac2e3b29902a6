"""A row whose labels another row of SegFix corrects, through all its stages."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from pipelines.project import Project
from segcore.errors import InputError
from segcore.files import read_json, sha256_of
from segcore.inference import predict_labels
from segcore.model_files import load_model
from segcore.segfix import MOVES, OFFSETS, moves_of
from segcore.shards import ShardReader
from segcore.types import IGNORE
from tests.pipelines.tiny_project import PLAIN, SEARCHED, TABLE, main_of, write_table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SEGFIX = "segfix-resnet18-tiny"
ROWS: dict[str, Any] = {
    **TABLE["rows"],
    SEGFIX: {
        "method": "segfix",
        "backbone": "resnet18",
        "dataset": "tiny",
        "backbone_options": {"pyramid": "concat"},
        "options": {"width": 8},
        "loss_options": {"boundary_width": 3, "smallest_region": 1},
        "steps": 2,
        "evaluate_every": 2,
    },
}


def with_refinement(root: Path, **changes: Any) -> Project:
    refinement = {"by": SEGFIX, "step": 1, **changes}
    return write_table(root, {**TABLE, "rows": ROWS, "refinements": {PLAIN: refinement}})


@pytest.fixture(scope="module")
def refined(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with a row of SegFix and one that it refines. Never write to it."""
    root = tmp_path_factory.mktemp("refined") / "project"
    shutil.copytree(finished.root, root)
    project = with_refinement(root)
    for verb in ("tune", "train", "evaluate", "benchmark"):
        main_of(verb)(SEGFIX, project)
    main_of("refine")(PLAIN, project)
    return project


def samples_of(project: Project, split: str) -> list[Any]:
    reader = ShardReader(str(project.shards("tiny")), split)
    return [reader[index] for index in range(len(reader))]


def slowly_refined(labels: np.ndarray, moves: np.ndarray, step: int) -> np.ndarray:
    height, width = labels.shape
    moved = labels.copy()
    for y, x in np.ndindex(height, width):
        dy, dx = OFFSETS[moves[y, x]]
        v, u = np.clip([y + step * dy, x + step * dx], 0, [height - 1, width - 1])
        moved[y, x] = labels[v, u]
    return moved


def miou_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    labels, found = (
        np.concatenate([each.ravel() for each in side]) for side in zip(*pairs, strict=True)
    )
    labels, found = labels[labels != IGNORE], found[labels != IGNORE]
    classes = sorted({*labels.tolist(), *found.tolist()})
    return float(jaccard_score(labels, found, labels=classes, average=None).mean())


@pytest.mark.parametrize("split", ["val", "train"])
def test_both_scores_are_those_of_scikit_learn(refined: Project, split: str):
    result = read_json(refined.run(PLAIN) / "refined.json")["splits"][split]
    model, segfix = (load_model(refined.run(row)) for row in (PLAIN, SEGFIX))
    before, after = list[Any](), list[Any]()
    for sample in samples_of(refined, split):
        labels, image = sample.labels.numpy(), sample.image[None]
        found, moves = (predict_labels(each.network, image)[0].numpy() for each in (model, segfix))
        before.append((labels, found))
        after.append((labels, slowly_refined(found, moves, step=1)))
    miou = result["figures"]["miou"]
    assert miou["before"] == pytest.approx(miou_of(before), abs=1e-12)
    assert miou["after"] == pytest.approx(miou_of(after), abs=1e-12)
    assert miou["gain"] == pytest.approx(miou["after"] - miou["before"], abs=1e-12)
    assert miou["interval"][0] <= miou["gain"] <= miou["interval"][1]
    assert result["images"] == len(before)
    scores = read_json(refined.run(PLAIN) / "scores.json")["splits"][split]
    for name in ("miou", "pixel_accuracy"):
        assert result["figures"][name]["before"] == pytest.approx(scores[name], abs=1e-12)


def test_the_network_of_moves_is_scored_on_moves(refined: Project):
    scores = read_json(refined.run(SEGFIX) / "scores.json")
    assert tuple(scores["classes"]) == MOVES.names
    segfix, pairs = load_model(refined.run(SEGFIX)), list[Any]()
    assert segfix.classes == MOVES
    for sample in samples_of(refined, "val"):
        true = moves_of(sample.labels, boundary_width=3, smallest_region=1)
        pairs.append((true.numpy(), predict_labels(segfix.network, sample.image[None])[0].numpy()))
    assert scores["splits"]["val"]["miou"] == pytest.approx(miou_of(pairs), abs=1e-12)
    parameters = read_json(refined.run(SEGFIX) / "benchmark.json")["parameters"]
    assert parameters == sum(each.numel() for each in segfix.network.parameters())


def test_it_says_what_it_was_refined_by_and_draws_three_images(refined: Project):
    folder = refined.run(PLAIN)
    result = read_json(folder / "refined.json")
    weights = sha256_of(refined.run(SEGFIX) / "weights.safetensors")
    assert result["refined_by"] == {"row": SEGFIX, "weights": weights}
    assert result["weights"] == sha256_of(folder / "weights.safetensors")
    assert result["step"] == 1
    drawn = {path.name for path in (folder / "refined").iterdir()}
    kinds = ("most", "median", "least")
    assert drawn == {f"{split}-{kind}.png" for split in ("val", "train") for kind in kinds}
    with Image.open(folder / "refined" / "val-most.png") as picture:
        assert picture.size == (4 * 64 + 3 * 4, 48)


def test_a_second_refine_writes_the_same(refined: Project, tmp_path: Path):
    shutil.copytree(refined.root, tmp_path / "copy")
    project = Project(tmp_path / "copy", tmp_path / "copy" / "params.yaml")
    main_of("refine")(PLAIN, project)
    for name in ("refined.json", "refined/val-most.png"):
        assert sha256_of(project.run(PLAIN) / name) == sha256_of(refined.run(PLAIN) / name)


def test_a_corrector_that_is_not_trained_is_told(prepared: Project, tmp_path: Path):
    shutil.copytree(prepared.root / "data", tmp_path / "data")
    with pytest.raises(InputError, match=rf"not trained yet; run: dvc repro train@{SEGFIX}"):
        main_of("refine")(PLAIN, with_refinement(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"by": PLAIN}, f"by: {PLAIN!r} is no row of method segfix"),
        ({"by": "segfix-resnet18-tyni"}, f"did you mean {SEGFIX!r}"),
        ({"step": 0}, "step"),
    ],
)
def test_a_corrector_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        with_refinement(tmp_path, **changes).params.refinement(PLAIN)


def test_a_row_that_nobody_corrects_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=f"refinements: no {SEARCHED!r}"):
        with_refinement(tmp_path).params.refinement(SEARCHED)
