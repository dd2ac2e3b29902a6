"""The network that a row describes, and the folder that keeps it with its weights.

A model folder holds ``weights.safetensors``, ``config.json`` (the row's recipe) and
``classes.json``; it is what a registry keeps and what every later stage loads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segcore.backbones import build_backbone
from segcore.checkpoints import Kept
from segcore.errors import InputError, validated
from segcore.files import read_json, write_json, written_whole
from segcore.models import build_model
from segcore.row import Run
from segcore.segmenter import Segmenter
from segcore.types import ClassTable

__all__ = [
    "CLASSES",
    "CONFIG",
    "WEIGHTS",
    "LoadedModel",
    "build_network",
    "in_layout",
    "load_model",
    "save_kept",
    "save_model",
]

WEIGHTS, CONFIG, CLASSES = "weights.safetensors", "config.json", "classes.json"
KEPT = "kept.json"


@dataclass(frozen=True)
class LoadedModel:
    """A network ready for inference, the row that it was trained by, and its classes."""

    network: Segmenter
    config: Run
    classes: ClassTable


def build_network(run: Run, num_classes: int) -> Segmenter:
    """Raises InputError where the row asks for what a method or backbone does not have."""
    backbone = build_backbone(
        run.backbone,
        output_stride=run.output_stride,
        pretrained=run.pretrained and not run.init,
        **run.backbone_options,
    )
    options = dict(run.options)
    return build_model(run.method, backbone, num_classes, auxiliary=run.auxiliary, **options)


def save_model(
    folder: Path, weights: Mapping[str, Tensor], row: str, run: Run, classes: ClassTable
) -> None:
    """Writes a model folder; its files are whole or absent."""
    _write_weights(folder / WEIGHTS, weights)
    write_json(folder / CONFIG, {"key": row, **run.model_dump(mode="json")})
    write_json(folder / CLASSES, asdict(classes))


def save_kept(folder: Path, kept: Sequence[Kept]) -> None:
    """Writes the weights of each evaluation that was kept as ``step-0000080.safetensors``, and
    their scores as ``kept.json``, the best one first; nothing else stays in the folder."""
    named = {f"step-{each.step:07d}.safetensors": each for each in kept}
    for name, each in named.items():
        assert each.weights is not None, "rank 0 holds them"
        _write_weights(folder / name, each.weights)
    scores = {name: {"step": each.step, "miou": each.miou} for name, each in named.items()}
    write_json(folder / KEPT, scores)
    for other in {path.name for path in folder.iterdir()} - {*named, KEPT}:
        (folder / other).unlink()


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    # safetensors takes neither channels-last tensors nor two that share memory.
    plain = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    with written_whole(path) as aside:
        save_file(plain, aside)


def load_model(folder: Path) -> LoadedModel:
    """The network of a model folder, in eval mode, on the CPU.

    Raises InputError where a file is missing or cut short, and where the weights are not those
    of the network and the classes that stand beside them.
    """
    values = read_json(folder / CONFIG)
    row = values.pop("key", None)
    run = validated(Run, values, str(folder / CONFIG))
    table = read_json(folder / CLASSES)
    classes = ClassTable(
        tuple(table["names"]), tuple(map(tuple, table["colours"])), tuple(table["mirror"])
    )
    network = build_network(run.model_copy(update={"pretrained": False}), len(classes))
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder / WEIGHTS} does not hold the weights of {run.method} on {run.backbone} with "
            f"{len(classes)} classes ({cause}); train the row {row} again"
        ) from None
    return LoadedModel(in_layout(network, run).eval(), run, classes)


def in_layout(network: Segmenter, run: Run) -> Segmenter:
    """With its weights as the row's training has them: what is faster there is so here."""
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    return network.to(memory_format=layout)
