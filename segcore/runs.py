"""A resolved row made real: its network, its data, its training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segcore.batches import RankSteps, TrainingStream, evaluation_batches, training_batches
from segcore.checkpoints import Checkpoint
from segcore.decoded_cache import open_reader
from segcore.distributed import rank, world_size
from segcore.errors import InputError
from segcore.evaluation import evaluate
from segcore.inference import predictor
from segcore.losses import Criterion, balanced_weights, build_criterion
from segcore.metrics import Scores
from segcore.model_files import build_network
from segcore.optimization import build_optimizer, build_schedule
from segcore.row import Run
from segcore.shards import Manifest
from segcore.targets import classes_of, criterion_of, reader_of, relabelling
from segcore.training import Event, Plan, Saved, fit, prepare_model
from segcore.transforms import Augmentation
from segcore.types import Batch, ClassTable

__all__ = ["check", "device_of", "loss_of", "optimization_of", "precision_of", "stamp", "train"]


def check(run: Run, num_classes: int) -> None:
    """Builds what the row names on the meta device: an error costs no time. Raises InputError."""
    with torch.device("meta"):
        build_network(run.model_copy(update={"pretrained": False}), num_classes)
    loss_of(run, [1] * num_classes)
    for workers in range(run.least_workers, run.most_workers + 1):
        _check_parts(run, workers)


def _check_parts(run: Run, workers: int) -> None:
    """Workers wait for each other in every part of a step: all must have equally many."""
    size = run.micro_batch or run.batch_size
    shares = run.batch_size // workers, -(-run.batch_size // workers)
    if len({-(-share // size) for share in shares}) > 1:
        raise InputError(
            f"batch_size {run.batch_size} over {workers} workers in parts of micro_batch {size} "
            f"gives workers different numbers of parts; make batch_size a multiple of {workers} "
            "or leave micro_batch out"
        )


def device_of(run: Run) -> torch.device:
    """Raises InputError where the row wants a GPU and there is none."""
    if run.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda' but torch sees no GPU here; set device to auto or cpu")
    return torch.device("cpu" if run.device == "cpu" or not torch.cuda.is_available() else "cuda")


def train(
    run: Run,
    shards: str,
    checkpoint: Path | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Iterator[Event]:
    """Trains the row on this worker's share of every batch, from a checkpoint if there is one,
    else from ``initial`` weights (those that it lacks stay as they were initialised).

    Raises InputError on what does not fit the data or this machine and on a checkpoint of another
    configuration or of other data, before the first step.
    """
    torch.set_num_threads(run.threads)
    _check_parts(run, world_size())
    device = device_of(run)
    classes = Manifest.read(shards).classes
    resumed = _resumed(checkpoint, run, shards) if checkpoint else None
    torch.manual_seed(run.seed)
    network = build_network(run, len(classes_of(run, classes)))
    if initial and not resumed:
        network.load_state_dict(initial, strict=False)
    model = prepare_model(
        network,
        device,
        frozen_batchnorm=run.freeze_batchnorm,
        sync_batchnorm=run.sync_batchnorm,
        channels_last=run.channels_last,
        compile=run.compile,
    )
    optimizer, schedule = optimization_of(run, network)
    criterion = loss_of(run, _training_pixels(run, shards))
    batches = _training_batches(run, shards, classes, resumed.step if resumed else 0)
    validation = _validation(run, shards, classes_of(run, classes))
    plan = _plan(run, device)
    for event in fit(model, batches, criterion, optimizer, schedule, validation, plan, resumed):
        if isinstance(event, Saved):
            event = replace(event, checkpoint=stamp(event.checkpoint, run, shards))
        yield event


def stamp(checkpoint: Checkpoint, run: Run, shards: str) -> Checkpoint:
    """The checkpoint as one of the training of ``run`` on ``shards``, on whatever machines."""
    return replace(checkpoint, of=f"{run.recipe_fingerprint()}-{Manifest.read(shards).data_hash}")


def _resumed(folder: Path, run: Run, shards: str) -> Checkpoint:
    checkpoint = Checkpoint.read(folder)
    if checkpoint.of != stamp(checkpoint, run, shards).of:
        raise InputError(
            f"{folder} is a checkpoint of another configuration or of other data than this "
            f"training's; delete {folder.parent} to start afresh"
        )
    return checkpoint


def _plan(run: Run, device: torch.device) -> Plan:
    return Plan(
        steps=run.steps,
        evaluate_every=run.evaluate_every,
        save_every=run.save_every,
        seed=run.seed,
        micro_batch=run.micro_batch,
        precision=precision_of(run, device),
        clip_norm=run.clip_norm,
        max_skipped=run.max_skipped,
        ema_decay=run.ema_decay,
        patience=run.patience,
        keep_best=run.keep_best,
    )


def _training_pixels(run: Run, shards: str) -> list[int]:
    """Of each class, over all splits that the row trains on."""
    manifest = Manifest.read(shards)
    counts = [manifest.split(split)["pixels"] for split in run.train_splits]
    return [sum(of_class) for of_class in zip(*counts, strict=True)]


def loss_of(run: Run, pixels: Sequence[int]) -> Criterion:
    """The row's loss; ``pixels`` are those of each class that training sees. Raises InputError."""
    if own := criterion_of(run):
        return own
    weights = balanced_weights(pixels) if run.class_weights == "balanced" else run.class_weights
    if weights is not None and len(weights) != len(pixels):
        raise InputError(
            f"class_weights holds {len(weights)} weights for {len(pixels)} classes; give one for "
            "each, or balanced"
        )
    terms = {
        "auxiliary_weight": run.auxiliary_weight,
        "presence_weight": run.presence_weight,
        "dice_weight": run.dice_weight,
        "lovasz_weight": run.lovasz_weight,
        "class_weights": weights,
    }
    if twice := terms.keys() & run.loss_options.keys():
        raise InputError(f"loss_options holds {min(twice)!r}, which is a key of the row itself")
    return build_criterion(run.loss, **terms, **run.loss_options)


def optimization_of(run: Run, network: nn.Module) -> tuple[Optimizer, LRScheduler]:
    """The row's optimizer of a network's parameters, and its schedule."""
    optimizer = build_optimizer(
        run.optimizer,
        network,
        learning_rate=run.learning_rate,
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        head_multiplier=run.head_multiplier,
        bias_multiplier=run.bias_multiplier,
        decay_all=run.decay_all,
    )
    schedule = build_schedule(
        run.schedule,
        optimizer,
        steps=run.steps,
        power=run.power,
        warmup_steps=run.warmup_steps,
        min_learning_rate=run.min_learning_rate,
    )
    return optimizer, schedule


def _training_batches(run: Run, shards: str, classes: ClassTable, start: int) -> Iterable[Batch]:
    augmentation = Augmentation(
        crop=run.crop,
        scale=run.scale,
        max_class_share=run.max_class_share,
        flip=run.flip,
        photometric=run.photometric,
        mirror=classes.mirror,
        resize=run.resize,
        aspect=run.aspect,
        rotation=run.rotation,
        brightness=run.brightness,
        relabel=relabelling(run),
    )
    reader = open_reader(shards, run.train_splits, run.decoded_cache)
    stream = TrainingStream(reader, augmentation, run.seed)
    positions = RankSteps(start, run.steps, run.batch_size, rank(), world_size())
    return training_batches(stream, positions, loader_workers=run.loader_workers)


def _validation(run: Run, shards: str, classes: ClassTable) -> Callable[[nn.Module], Scores]:
    """Scores a network on the split ``val``, else the row's first one, each worker its slice."""
    predict = predictor(run.test_time.single(), classes.mirror)
    split = "val" if "val" in Manifest.read(shards).splits else run.splits[0]
    batches = evaluation_batches(
        reader_of(run, shards, split),
        rank=rank(),
        ranks=world_size(),
        loader_workers=run.loader_workers,
    )

    def validate(network: nn.Module) -> Scores:
        return evaluate(network, batches, len(classes), predict)

    return validate


def precision_of(run: Run, device: torch.device) -> torch.dtype:
    """What the row's training computes in on a device."""
    auto = "bfloat16" if device.type == "cuda" else "float32"
    return getattr(torch, auto if run.precision == "auto" else run.precision)
