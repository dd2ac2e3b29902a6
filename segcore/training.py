"""The training loop, as an iterator of what happened. It knows no engine."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segcore.averaging import WeightAverage
from segcore.checkpoints import Checkpoint, with_new
from segcore.distributed import share_buffers, synchronise_batchnorm, world_size
from segcore.errors import InputError
from segcore.frozen_norms import freeze_batchnorm
from segcore.gradients import Update, Updates
from segcore.metrics import Scores
from segcore.types import Batch


@dataclass(frozen=True)
class Step:
    """One optimizer update. ``loss`` is the mean over the labelled pixels of the global batch;
    ``data_seconds`` of the step's ``seconds`` were spent waiting for the batch. A ``skipped``
    step, whose loss or gradient was not finite, changed nothing."""

    number: int
    loss: float
    learning_rate: float
    seconds: float
    data_seconds: float
    skipped: bool = False


@dataclass(frozen=True)
class Evaluated:
    """The scores after ``number`` steps, of the weights' average where one is kept; ``best`` so
    far or not."""

    number: int
    scores: Scores
    seconds: float
    best: bool


@dataclass(frozen=True)
class Saved:
    """The moment to write ``checkpoint``: training waits until the next event is asked for."""

    number: int
    checkpoint: Checkpoint


Event = Step | Evaluated | Saved


def prepare_model(
    network: nn.Module,
    device: torch.device,
    *,
    frozen_batchnorm: bool = False,
    sync_batchnorm: bool = True,
    channels_last: bool = True,
    compile: bool = False,
) -> nn.Module:
    """Fits a finished network to where it runs, in this order and nowhere else: device, the
    backbone's BatchNorm frozen, all other synchronised, channels last, compile,
    DistributedDataParallel."""
    network = network.to(device)
    if frozen_batchnorm:
        freeze_batchnorm(network.get_submodule("backbone"))
    if sync_batchnorm and world_size() > 1:
        network = synchronise_batchnorm(network)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    model = torch.compile(network) if compile else network
    if world_size() > 1:
        model = DistributedDataParallel(model)
    assert isinstance(model, nn.Module)
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and compile; its parameters are the same."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    return getattr(model, "_orig_mod", model)


@dataclass(frozen=True)
class Plan:
    """How long to train, how to take a step, and when to look.

    ``seed`` decides dropout, step by step. ``micro_batch`` is the most images of a worker that
    pass through the network at once; it must divide the shares of all workers into equally many
    parts, since they wait for each other. ``clip_norm`` and ``max_skipped``: see ``Updates``.
    With ``ema_decay`` it is the moving average of the weights that is evaluated and kept. After
    ``patience`` evaluations without a better one training ends. The best ``keep_best`` of all
    evaluated weights are kept.
    """

    steps: int
    evaluate_every: int
    save_every: int
    seed: int = 0
    micro_batch: int | None = None
    precision: torch.dtype = torch.float32
    clip_norm: float | None = None
    max_skipped: int = 0
    ema_decay: float | None = None
    patience: int | None = None
    keep_best: int = 1

    def due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.steps

    def gives_up(self, stale: int) -> bool:
        """After ``stale`` evaluations without a better one."""
        return self.patience is not None and stale >= self.patience


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    criterion: Callable[..., Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    evaluate: Callable[[nn.Module], Scores],
    plan: Plan,
    resumed: Checkpoint | None = None,
) -> Iterator[Event]:
    """Trains as it is iterated; whoever calls it must consume it.

    ``batches`` holds this worker's share of every step that is left; ``criterion`` gives sums
    over pixels. Everything random is a function of (seed, step, rank), so that a resumed
    training goes on exactly. Workers decide alike: what decides is the same on all of them.
    Raises InputError when the loss or the gradient is no longer finite, and where there is nothing
    to score.
    """
    parts = _parts(model, criterion, optimizer, schedule, plan)
    last = parts.restored(resumed) if resumed else Checkpoint(0, {})
    kept, stale = last.kept, last.stale
    if plan.gives_up(stale):
        return
    waiting = perf_counter()
    for number, batch in enumerate(batches, start=last.step + 1):
        begun, learning_rate = perf_counter(), optimizer.param_groups[0]["lr"]
        loss, skipped = parts.step(batch, number)
        ended = perf_counter()
        yield Step(number, loss, learning_rate, ended - waiting, begun - waiting, skipped)
        if plan.due(number, plan.evaluate_every):
            scores, seconds = _timed(evaluate, parts.scored)
            best = scores.miou > (kept[0].miou if kept else -math.inf)
            kept = with_new(kept, number, scores.miou, parts.scored, plan.keep_best)
            stale = 0 if best else stale + 1
            yield Evaluated(number, scores, seconds, best)
        if plan.due(number, plan.save_every) or plan.gives_up(stale):
            yield Saved(number, Checkpoint(number, parts.states(), kept, stale))
        if plan.gives_up(stale):
            return
        waiting = perf_counter()


@dataclass(frozen=True)
class _Parts:
    """What changes as a training goes on, and goes into its checkpoints."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    updates: Updates
    average: WeightAverage | None

    @property
    def scored(self) -> nn.Module:
        return self.average.network if self.average else self.model

    def step(self, batch: Batch, number: int) -> Update:
        update = self.updates.take(batch, number)
        with warnings.catch_warnings():
            if update.skipped:  # torch takes a first step that is skipped for a mistake
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")
            self.schedule.step()
        if self.average and not update.skipped:
            self.average.update(self.model, number)
        return update

    def states(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._named()}

    def restored(self, resumed: Checkpoint) -> Checkpoint:
        try:
            for name, part in self._named():
                part.load_state_dict(resumed.state[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the checkpoint of step {resumed.step} is of another network or optimizer "
                f"({str(error).partition(chr(10))[0]}); delete it to start afresh"
            ) from None
        return resumed

    def _named(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            if (part := getattr(self, field.name)) is not None:
                yield field.name, part


def _parts(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    plan: Plan,
) -> _Parts:
    network = unwrapped(model).train()
    updates = Updates(
        model,
        criterion,
        optimizer,
        seed=plan.seed,
        micro_batch=plan.micro_batch,
        precision=plan.precision,
        clip_norm=plan.clip_norm,
        max_skipped=plan.max_skipped,
    )
    average = None if plan.ema_decay is None else WeightAverage(network, plan.ema_decay)
    return _Parts(network, optimizer, schedule, updates, average)


def _timed(evaluate: Callable[[nn.Module], Scores], network: nn.Module) -> tuple[Scores, float]:
    begun = perf_counter()
    share_buffers(network)  # what is scored are the weights that rank 0 keeps
    scores = evaluate(network)
    if not scores.present.any():
        raise InputError(
            "the images that training is scored on hold no labelled pixel, so there is no mIoU; "
            "look at the audit of the data (pipelines.validate)"
        )
    return scores, perf_counter() - begun
