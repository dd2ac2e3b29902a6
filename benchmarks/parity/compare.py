"""Segcore's side of ``make parity``: the same scores as MMSegmentation from the same weights.

Each case's published model, with random weights, is run in the other environment
(``published.py``); here its checkpoint is loaded as anybody would load one, and the scores are
compared. Writes the table that it prints; ends with an error where a difference is too large.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from segcore.backbones import build_backbone
from segcore.files import written_whole
from segcore.models import build_model
from segcore.segmenter import Segmenter
from segcore.weights import load_weights

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "work/parity"
TABLE = ROOT / "docs/results/parity.md"

CLASSES = 19
TOLERANCE = 1e-4
SCALE = 0.5, 2.0
"""Standard deviation of the scores: what ``TOLERANCE`` is to be seen against."""

HEAD = """# Parity with MMSegmentation

Written by `make parity`. Each row is a network of MMSegmentation 1.2.2 and the same one here, on
the same weights: random ones, gates and BatchNorm's statistics too, loaded by
`segcore.weights.load_weights`. The figures are the largest absolute difference of any score, on
a CPU in float32, at three sizes of the image; scores have the standard deviation beside them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", required=True, help="the Python that has MMSegmentation")
    parser.add_argument("cases", nargs="*", help="all of cases.yaml, if none is named")
    arguments = parser.parse_args()
    table = yaml.safe_load((HERE / "cases.yaml").read_text())
    cases = table["cases"]
    rows = dict[str, list[str]]()
    failed = list[str]()
    with published(arguments.published) as outcome:
        for name in arguments.cases or cases:
            given = outcome(name)
            rows[name], good = compared(cases[name], built(name, cases[name]), given)
            if not good:
                failed.append(name)
            print(line([name, *rows[name]]), flush=True)
    if not arguments.cases:
        write(rows, table["sizes"])
    if failed:
        sys.exit(f"over {TOLERANCE:g}, or scores of another scale: {', '.join(failed)}")


@contextmanager
def published(python: str) -> Iterator[Any]:
    """Gives a function from a case's name to what the published model made of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [python, "-W", "ignore", str(HERE / "published.py"), str(FOLDER)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1) as other:
        assert other.stdin
        assert other.stdout

        def outcome(name: str) -> Path:
            print(name, file=other.stdin, flush=True)
            for said in other.stdout or ():
                if said == f"written {name}\n":
                    return FOLDER / f"{name}.pt"
            sys.exit(f"MMSegmentation's side ended at case {name}")

        yield outcome
        other.stdin.close()


def built(name: str, case: dict[str, Any]) -> Segmenter:
    method = name.partition("-")[0]
    backbone = build_backbone(**case["backbone"])
    return build_model(method, backbone, CLASSES, **case.get("options", {}))


def compared(case: dict[str, Any], model: Segmenter, path: Path) -> tuple[list[str], bool]:
    """The row's cells, and whether it is within tolerance. Removes ``path``, which is large."""
    load_weights(model, path)
    given = torch.load(path, weights_only=True)
    path.unlink()
    keep_heads_for_training(model)
    differences, scales, heads = list[float](), list[float](), list[float]()
    with torch.inference_mode():
        for images, (logits, *others) in zip(given["images"], given["outputs"], strict=True):
            prediction = model(images)
            differences.append((prediction.logits - logits).abs().max().item())
            scales.append(logits.std().item())
            heads.append(largest_difference(outputs_beside(prediction), others))
    good = max(*differences, *heads) <= TOLERANCE
    good &= SCALE[0] <= min(scales) and max(scales) <= SCALE[1]
    cells = [case["backbone"]["name"] + (" + JPU" if "joint" in case["backbone"].values() else "")]
    cells += [f"{each:.1e}" for each in differences]
    cells += [f"{max(heads):.1e}", f"{min(scales):.2f}..{max(scales):.2f}"]
    return cells, good


def keep_heads_for_training(model: Segmenter) -> None:
    """Every layer as in inference; only the model itself gives what its other heads say, too."""
    model.eval()
    model.training = True


def outputs_beside(prediction: Any) -> list[Tensor]:
    present = [] if prediction.presence is None else [prediction.presence]
    return [*present, *prediction.auxiliary]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Heads are in the same order on both sides."""
    pairs = zip(ours, theirs, strict=True)
    return max(((a - b).abs().max().item() for a, b in pairs), default=0.0)


def write(rows: dict[str, list[str]], sizes: list[list[int]]) -> None:
    shown = [f"{height}x{width}" for height, width in sizes]
    titles = ["case", "backbone", *shown, "other heads", "std of scores"]
    with written_whole(TABLE) as aside:
        table = [line(titles), line(["---"] * len(titles))]
        table += [line([name, *cells]) for name, cells in rows.items()]
        aside.write_text(HEAD + "\n" + "\n".join(table) + "\n", encoding="utf-8")


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
