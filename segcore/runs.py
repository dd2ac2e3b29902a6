"""A resolved row made real: its network, its data, its training; and its files.

A model folder holds ``weights.safetensors``, ``config.json`` (the resolved row) and
``classes.json``; it is what a registry keeps and what every later stage loads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segcore.backbones import build_backbone
from segcore.batches import RankSteps, TrainingStream, evaluation_batches, training_batches
from segcore.checkpoints import Checkpoint
from segcore.distributed import rank, world_size
from segcore.errors import InputError
from segcore.evaluation import evaluate
from segcore.files import read_json, write_json, written_whole
from segcore.losses import build_criterion
from segcore.metrics import Scores
from segcore.models import build_model
from segcore.optimization import build_optimizer, build_schedule
from segcore.params import Run, validated
from segcore.segmenter import Segmenter
from segcore.shards import Manifest, ShardReader
from segcore.training import Event, Plan, fit, prepare_model
from segcore.transforms import Augmentation
from segcore.types import ClassTable

WEIGHTS, CONFIG, CLASSES = "weights.safetensors", "config.json", "classes.json"


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
        pretrained=run.pretrained,
        **run.backbone_options,
    )
    options = dict(run.options)
    return build_model(run.method, backbone, num_classes, auxiliary=run.auxiliary, **options)


def check(run: Run, num_classes: int) -> None:
    """Builds what the row names on the meta device: an error costs no time. Raises InputError."""
    with torch.device("meta"):
        build_network(run.model_copy(update={"pretrained": False}), num_classes)
    build_criterion(run.loss, auxiliary_weight=run.auxiliary_weight, **run.loss_options)


def device_of(run: Run) -> torch.device:
    """Raises InputError where the row wants a GPU and there is none."""
    if run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda' but torch sees no GPU here; set device to auto or cpu")
    return torch.device("cpu" if run.device == "cpu" or not torch.cuda.is_available() else "cuda")


def train(run: Run, shards: str, checkpoint: Path | None = None) -> Iterator[Event]:
    """Trains the row on this worker's share of every batch, from a checkpoint if there is one."""
    torch.set_num_threads(run.threads)
    device = device_of(run)
    classes = Manifest.read(shards).classes
    resumed = Checkpoint.read(checkpoint) if checkpoint else None
    torch.manual_seed(run.seed)
    network = build_network(run, len(classes))
    model = prepare_model(
        network,
        device,
        sync_batchnorm=run.sync_batchnorm,
        channels_last=run.channels_last,
        compile=run.compile,
    )
    optimizer = build_optimizer(
        run.optimizer,
        network,
        learning_rate=run.learning_rate,
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        head_multiplier=run.head_multiplier,
    )
    schedule = build_schedule(
        run.schedule,
        optimizer,
        steps=run.steps,
        power=run.power,
        warmup_steps=run.warmup_steps,
        min_learning_rate=run.min_learning_rate,
    )
    criterion = build_criterion(run.loss, auxiliary_weight=run.auxiliary_weight, **run.loss_options)
    batches = _training_batches(run, shards, classes, resumed.step if resumed else 0)
    validation = _Validation(run, shards, len(classes))
    plan = Plan(
        steps=run.steps,
        evaluate_every=run.evaluate_every,
        save_every=run.save_every,
        seed=run.seed,
        micro_batch=run.micro_batch,
        precision=_precision_of(run, device),
    )
    yield from fit(model, batches, criterion, optimizer, schedule, validation, plan, resumed)


def _training_batches(run: Run, shards: str, classes: ClassTable, start: int) -> Any:
    augmentation = Augmentation(
        crop=run.crop,
        scale=run.scale,
        max_class_share=run.max_class_share,
        flip=run.flip,
        photometric=run.photometric,
        mirror=classes.mirror,
    )
    stream = TrainingStream(ShardReader(shards, "train"), augmentation, run.seed)
    positions = RankSteps(start, run.steps, run.batch_size, rank(), world_size())
    return training_batches(stream, positions, loader_workers=run.loader_workers)


@dataclass(frozen=True)
class _Validation:
    """Scores a network on the validation split, each worker its slice."""

    run: Run
    shards: str
    num_classes: int

    def __call__(self, network: nn.Module) -> Scores:
        split = "val" if "val" in Manifest.read(self.shards).splits else self.run.splits[0]
        batches = evaluation_batches(
            ShardReader(self.shards, split),
            rank=rank(),
            ranks=world_size(),
            loader_workers=self.run.loader_workers,
        )
        return evaluate(network, batches, self.num_classes)


def _precision_of(run: Run, device: torch.device) -> torch.dtype:
    auto = "bfloat16" if device.type == "cuda" else "float32"
    return getattr(torch, auto if run.precision == "auto" else run.precision)


def save_model(
    folder: Path, weights: Mapping[str, Tensor], row: str, run: Run, classes: ClassTable
) -> None:
    """Writes a model folder; its files are whole or absent."""
    with written_whole(folder / WEIGHTS) as aside:
        save_file(dict(weights), aside)
    write_json(folder / CONFIG, {"key": row, **run.model_dump(mode="json")})
    write_json(folder / CLASSES, asdict(classes))


def load_model(folder: Path) -> LoadedModel:
    """The network of a model folder, in eval mode, on the CPU."""
    values = read_json(folder / CONFIG)
    values.pop("key", None)
    run = validated(Run, values, str(folder / CONFIG))
    table = read_json(folder / CLASSES)
    classes = ClassTable(
        tuple(table["names"]), tuple(map(tuple, table["colours"])), tuple(table["mirror"])
    )
    network = build_network(run.model_copy(update={"pretrained": False}), len(classes))
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{folder / WEIGHTS} does not fit {run.method}: {error}") from None
    return LoadedModel(network.eval(), run, classes)
